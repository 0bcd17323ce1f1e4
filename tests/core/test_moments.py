"""Vectors of users over time, against a loop over every prefix of every history."""

from pathlib import Path

import numpy as np
import pytest
from tests.core.small_corpus import NUM_ITEMS, make_corpus

from dasrec.core.encoders import history_mean
from dasrec.core.moments import history_means_over_time, num_moments


def test_every_moment_is_the_mean_of_what_came_before(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    items = np.random.default_rng(0).normal(size=(NUM_ITEMS, 5)).astype(np.float32)
    got = np.full((num_moments(corpus), 5), np.nan, np.float32)
    for moments, vectors in history_means_over_time(corpus, items, 3.0):
        assert np.isnan(got[moments]).all()  # each moment once
        got[moments] = vectors
    trained = history_mean(corpus, items, 3.0)
    train = np.bincount(corpus.user_idx[corpus.train_rows], minlength=corpus.num_users)
    everything = items[corpus.item_idx[corpus.train_rows]].sum(0)
    for user in range(corpus.num_users):
        start, end = corpus.user_start[user : user + 2]
        for known in range(end - start + 1):
            history = corpus.item_idx[start : start + known]
            want = sum(0.5 ** ((known - 1 - n) / 3) * items[i] for n, i in enumerate(history))
            want = np.asarray(want) if known else everything
            number = start + known + user
            assert got[number] == pytest.approx(want / np.linalg.norm(want), rel=1e-4, abs=1e-6)
        # training interactions come first in this corpus: then it is what `embed` made
        assert got[start + train[user] + user] == pytest.approx(trained[user], rel=1e-4, abs=1e-6)
