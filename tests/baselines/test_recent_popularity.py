from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dasrec.baselines import RecentPopularityConfig, recommend_recent_popularity
from dasrec.baselines import popularity as module
from dasrec.core import Corpus, load_recommendations

MakeCorpus = Callable[..., Corpus]


def test_old_interactions_fade(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The corpus counts one second from event to event; a day of one second makes them days.
    monkeypatch.setattr(module, "SECONDS_PER_DAY", 1)
    corpus = make_corpus([[0, 0, 0, 1, 4, 4], [1, 2, 3, 4]], 5)
    recommend_recent_popularity(
        RecentPopularityConfig(width=5, half_life_days=2.0), corpus, tmp_path / "out"
    )
    lists = load_recommendations(tmp_path / "out", corpus)
    # training events at 0, 1, 2 (item 0), 3 (item 1), 6 (item 1) and 7 (item 2); the last is at 7
    weight = {
        0: 2**-3.5 + 2**-3 + 2**-2.5,
        1: 2**-2 + 2**-0.5,
        2: 1.0,
        3: 0.0,
        4: 0.0,
    }
    assert 2**-2 + 2**-0.5 < 1  # twice, but long ago, counts less than once
    assert lists.item_idx.tolist() == [[2, 1, 0, 3, 4]] * 4
    expected = np.array([weight[item] for item in (2, 1, 0, 3, 4)])
    np.testing.assert_allclose(lists.score, np.tile(expected, (4, 1)), rtol=1e-6)


def test_a_long_half_life_is_plain_popularity(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corpus = make_corpus([rng.integers(0, 9, 8).tolist() for _ in range(30)], 9)
    config = RecentPopularityConfig(width=9, half_life_days=1e9)
    recommend_recent_popularity(config, corpus, tmp_path / "out")
    lists = load_recommendations(tmp_path / "out", corpus)
    order = np.argsort(-corpus.train_item_count, kind="stable")
    np.testing.assert_allclose(lists.score[0], corpus.train_item_count[order], rtol=1e-6)
