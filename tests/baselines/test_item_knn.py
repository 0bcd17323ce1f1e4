from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dasrec.baselines import (
    CooccurrenceConfig,
    ItemKnnConfig,
    recommend_cooccurrence,
    recommend_item_knn,
)
from dasrec.baselines.item_knn import count_neighbours
from dasrec.core import Corpus, load_recommendations

MakeCorpus = Callable[..., Corpus]

CONFIGS = [
    ItemKnnConfig(width=6),
    ItemKnnConfig(width=6, window=2, backward_weight=0.0, recency_power=0.0, max_history=3),
    ItemKnnConfig(width=6, window=3, distance_power=1.0, popularity_power=0.5, max_history=2),
    ItemKnnConfig(width=6, backward_weight=1.0, distance_power=0.0, exclude_seen="always"),
]


def brute_force(
    config: ItemKnnConfig, sequences: list[list[int]], num_items: int, history: list[int]
) -> list[float]:
    """Score of every item by the formula in the docstring, in loops; fillers below zero."""
    train = [sequence[:-2] for sequence in sequences]
    count = [sum(sequence.count(item) for sequence in train) for item in range(num_items)]
    votes = np.zeros((num_items, num_items))
    for sequence in train:
        for i, a in enumerate(sequence):
            for j, b in enumerate(sequence):
                if 0 < abs(j - i) <= config.window and a != b:
                    side = 1.0 if j > i else config.backward_weight
                    votes[a, b] += side * abs(j - i) ** -config.distance_power
    scores = []
    for item in range(num_items):
        score = 0.0
        for recency, voter in enumerate(history[::-1][: config.max_history], start=1):
            damping = (max(count[voter], 1) * max(count[item], 1)) ** config.popularity_power
            score += recency**-config.recency_power * votes[voter, item] / damping
        if score == 0:
            score = -1 / (1 + count[item])
        if config.exclude_seen == "always" and item in history:
            score = -np.inf
        scores.append(score)
    return scores


@pytest.mark.parametrize("config", CONFIGS)
def test_equals_brute_force(config: ItemKnnConfig, make_corpus: MakeCorpus, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    sequences = [rng.integers(0, 12, rng.integers(2, 14)).tolist() for _ in range(25)]
    corpus = make_corpus(sequences, 15)
    recommend_item_knn(config, corpus, tmp_path / "out")
    lists = load_recommendations(tmp_path / "out", corpus)
    for query, items, scores in zip(lists.queries, lists.item_idx, lists.score, strict=True):
        user = int(corpus.user_idx[query])
        history = sequences[user][: query - int(corpus.user_start[user])]
        expected = np.array(brute_force(config, sequences, 15, history), np.float32)
        real = items >= 0
        np.testing.assert_allclose(scores[real], np.sort(expected)[::-1][: real.sum()], rtol=1e-5)
        np.testing.assert_allclose(scores[real], expected[items[real]], rtol=1e-5)
        assert real.sum() == min(6, np.isfinite(expected).sum())


def test_the_withheld_item_comes_first(checkerboard: Corpus, tmp_path: Path) -> None:
    recommend_item_knn(
        ItemKnnConfig(width=20, exclude_seen="always"), checkerboard, tmp_path / "out"
    )
    lists = load_recommendations(tmp_path / "out", checkerboard)
    test = np.searchsorted(lists.queries, checkerboard.queries("test"))
    assert (lists.item_idx[test, 0] == checkerboard.item_idx[checkerboard.queries("test")]).all()


def test_learns_from_training_events_and_votes_from_all(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    train = [[0, 1, 2], [2, 3, 1], [4, 5, 0]]
    one = make_corpus([[*t, 0, 5] for t in train], 6, "one")
    two = make_corpus([[*t, 4, 3] for t in train], 6, "two")
    config = ItemKnnConfig(width=6)
    a, b = count_neighbours(config, one), count_neighbours(config, two)
    assert (a != b).nnz == 0
    recommend_item_knn(config, one, tmp_path / "one")
    recommend_item_knn(config, two, tmp_path / "two")
    x, y = load_recommendations(tmp_path / "one", one), load_recommendations(tmp_path / "two", two)
    is_test = np.isin(x.queries, one.queries("test"))
    assert (x.score[~is_test] == y.score[~is_test]).all()
    # the validation event (0 or 4) is the latest voter of the test query
    assert (x.score[is_test] != y.score[is_test]).any(axis=1).all()


def test_same_inputs_same_fingerprint(checkerboard: Corpus, tmp_path: Path) -> None:
    one = recommend_item_knn(ItemKnnConfig(), checkerboard, tmp_path / "one")
    two = recommend_item_knn(ItemKnnConfig(), checkerboard, tmp_path / "two")
    assert one.fingerprint == two.fingerprint
    with pytest.raises(FileExistsError):
        recommend_item_knn(ItemKnnConfig(), checkerboard, tmp_path / "one")


def test_cooccurrence_counts_pairs_within_the_window(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    sequences = [rng.integers(0, 10, rng.integers(3, 12)).tolist() for _ in range(20)]
    corpus = make_corpus(sequences, 10)
    recommend_cooccurrence(CooccurrenceConfig(width=10, window=2), corpus, tmp_path / "out")
    lists = load_recommendations(tmp_path / "out", corpus)
    for query, items, scores in zip(lists.queries, lists.item_idx, lists.score, strict=True):
        user = int(corpus.user_idx[query])
        votes = dict.fromkeys(range(10), 0.0)
        history = sequences[user][: query - int(corpus.user_start[user])]
        for latest, voter in enumerate(reversed(history), start=1):
            for train in (sequence[:-2] for sequence in sequences):
                for i, a in enumerate(train):
                    for distance, b in enumerate(train[i + 1 : i + 3], start=1):
                        if a != b and voter in (a, b):
                            votes[b if voter == a else a] += 1 / distance / latest
        for item, score in zip(items.tolist(), scores.tolist(), strict=True):
            assert (score if score > 0 else 0) == pytest.approx(votes[item])
