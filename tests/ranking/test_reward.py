"""The CTR model as a reward: equal to scoring rows one by one, in any order and batch size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dasrec.core.config import build_config
from dasrec.ranking import (
    Ranker,
    RankingConfig,
    click_probabilities,
    load_ranker,
    train_ranker,
)


@pytest.fixture(scope="module")
def ranker(implicit: Any, tmp_path_factory: pytest.TempPathFactory) -> Ranker:
    out: Path = tmp_path_factory.mktemp("reward") / "ranker"
    values = {
        "epochs": 1,
        "model": {"embedding_dim": 4, "hidden_dims": [8]},
        "features": {"hash_size": 64, "max_history": 10},
    }
    train_ranker(build_config(RankingConfig, values, "test"), implicit.corpus, implicit.sids, out)
    return load_ranker(out, implicit.corpus, implicit.sids)


def test_probabilities_are_those_of_single_rows(ranker: Ranker, implicit: Any) -> None:
    corpus = implicit.corpus
    queries = corpus.queries("test")[[3, 40, 3]]  # one of them twice, as a group of proposals
    items = np.array([[5, 9, -1], [0, 119, 7], [9, -1, -1]])
    got = click_probabilities(ranker, corpus, queries, items)
    assert got.dtype == np.float32
    for row, column in np.ndindex(items.shape):
        if items[row, column] < 0:
            assert got[row, column] == 0
            continue
        query = queries[[row]]
        logit = ranker.score(corpus.user_idx[query], items[row, [column]], query)
        assert got[row, column] == pytest.approx(ranker.probability(logit)[0], abs=1e-6)


def test_order_and_batch_size_change_nothing(ranker: Ranker, implicit: Any) -> None:
    rng = np.random.default_rng(0)
    queries = implicit.corpus.queries("test")
    items = rng.integers(-1, implicit.corpus.num_items, (len(queries), 4))
    got = click_probabilities(ranker, implicit.corpus, queries, items)
    order = rng.permutation(len(queries))
    shuffled = click_probabilities(ranker, implicit.corpus, queries[order], items[order], 7)
    np.testing.assert_allclose(shuffled, got[order], atol=1e-6)


def test_scores_do_not_depend_on_the_order_of_rows(ranker: Ranker, implicit: Any) -> None:
    corpus, rng = implicit.corpus, np.random.default_rng(1)
    ends = np.arange(len(corpus.user_idx))
    users, items = corpus.user_idx, rng.integers(0, corpus.num_items, len(ends))
    order = rng.permutation(len(ends))
    one = ranker.score(users, items, ends)
    other = ranker.score(users[order], items[order], ends[order], batch_size=13)
    np.testing.assert_allclose(other, one[order], atol=1e-5)


def test_nothing_proposed(ranker: Ranker, implicit: Any) -> None:
    queries = implicit.corpus.queries("test")[:2]
    assert click_probabilities(ranker, implicit.corpus, queries, np.full((2, 3), -1)).sum() == 0
