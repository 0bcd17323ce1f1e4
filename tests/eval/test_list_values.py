"""Values of single lists against loops over pairs and against written arithmetic."""

from itertools import combinations

import numpy as np
import pytest
from scipy.spatial.distance import cosine

from dasrec.core import Corpus, Ragged
from dasrec.eval import list_values
from dasrec.eval.list_values import (
    list_diversity,
    list_novelty,
    list_popularity,
    mean_known,
    popularity_gap,
    profile_popularity,
    serendipity_at_k,
)
from dasrec.eval.primitive import expected_ranks
from dasrec.eval.ranking_metrics import rank_of_target, ranks_of_targets
from dasrec.eval.scorecard import Backdrop, score_lists

NUM_ITEMS = 30


def ragged_lists(seed: int, num_queries: int = 80, width: int = 12) -> np.ndarray:
    """Lists with repeats, some short, some empty, some with an index that is no item."""
    rng = np.random.default_rng(seed)
    lists = rng.integers(0, NUM_ITEMS + 2, (num_queries, width))
    return np.where(np.arange(width) < rng.integers(0, width + 1, (num_queries, 1)), lists, -1)


def items_of(row: np.ndarray, k: int) -> list[int]:
    return [int(item) for item in row[:k] if 0 <= item < NUM_ITEMS]


@pytest.mark.parametrize("block", [1 << 24, 50])
def test_diversity_is_the_mean_distance_of_all_pairs(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_values, "_BLOCK", block)
    vectors = np.random.default_rng(1).normal(size=(NUM_ITEMS, 7))
    lists = ragged_lists(0)
    for k, got in zip((1, 3, 12), list_diversity(lists, (1, 3, 12), vectors), strict=True):
        for row, value in zip(lists, got, strict=True):
            pairs = list(combinations(items_of(row, k), 2))
            if pairs:
                expected = np.mean([cosine(vectors[i], vectors[j]) for i, j in pairs])
                assert value == pytest.approx(expected, abs=1e-6)
            else:
                assert np.isnan(value)


def test_items_without_a_vector_are_unlike_all_others() -> None:
    vectors = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    (got,) = list_diversity(np.array([[0, 1, 2], [0, 0, -1]]), (3,), vectors)
    assert got == pytest.approx([(1 + 1 + 0) / 3, 1])


def test_popularity_and_novelty_of_each_list() -> None:
    count = np.random.default_rng(2).integers(0, 50, NUM_ITEMS)
    bits = -np.log2((count + 1) / (count.sum() + NUM_ITEMS))
    lists = ragged_lists(3)
    rows = [items_of(row, 5) for row in lists]
    for values, of_item in (
        (list_popularity(lists, 5, count), count.astype(float)),
        (list_novelty(lists, 5, count), bits),
    ):
        expected = np.array([of_item[row].mean() if row else np.nan for row in rows])
        np.testing.assert_allclose(values, expected)
        assert mean_known(values) == pytest.approx(float(np.nanmean(expected)))


def test_popularity_gap_by_hand() -> None:
    count = np.array([10, 4, 2, 0])
    profiles = Ragged(np.array([0, 2, 1, 1, 3], np.int32), np.array([0, 2, 4, 4, 5]))
    history = profile_popularity(profiles, count)
    np.testing.assert_array_equal(history, [6, 4, np.nan, 0])
    lists = list_popularity(np.array([[0, 1], [1, -1], [0, 0], [-1, -1]]), 2, count)
    # the third query has no history, the fourth no list: GAP_q = (7 + 4) / 2, GAP_p = (6 + 4) / 2
    assert popularity_gap(lists, history) == pytest.approx((5.5 - 5) / 5)
    assert np.isnan(popularity_gap(lists[2:], history[2:]))


def test_the_gap_does_not_depend_on_the_unit_of_popularity() -> None:
    rng = np.random.default_rng(4)
    lists, profile = rng.random(50), rng.random(50)
    assert popularity_gap(lists, profile) == pytest.approx(popularity_gap(7 * lists, 7 * profile))


def test_serendipity_counts_hits_that_the_primitive_lacks() -> None:
    rng = np.random.default_rng(5)
    lists, primitive = ragged_lists(6), ragged_lists(7)
    targets = rng.integers(0, NUM_ITEMS, len(lists))
    ranks, expected = rank_of_target(lists, targets), rank_of_target(primitive, targets)
    for k in (1, 4, 12):
        loop = [
            target in items_of(row, k) and target not in items_of(other, k)
            for row, other, target in zip(lists, primitive, targets, strict=True)
        ]
        assert serendipity_at_k(ranks, expected, k).tolist() == loop
    several = Ragged(np.array([0, 1, 2, 5], np.int32), np.array([0, 3, 4]))
    found = np.array([[1, 2, 9], [5, 8, 9]])
    known = np.array([[2, 7, 8], [7, 8, 9]])
    hits, listed = ranks_of_targets(found, several), ranks_of_targets(known, several)
    assert serendipity_at_k(hits, listed, 3, several.starts).tolist() == [1 / 3, 1]


def test_the_primitive_ranks_by_votes_or_by_popularity(corpus: Corpus) -> None:
    queries = np.concatenate([corpus.queries("valid"), corpus.queries("test")])
    train = {u: corpus.item_idx[(corpus.user_idx == u) & (corpus.split == 0)] for u in range(60)}
    pairs = np.zeros((corpus.num_items, corpus.num_items))
    for row in train.values():
        for i, j in combinations(range(len(row)), 2):
            if j - i <= 5 and row[i] != row[j]:
                pairs[row[i], row[j]] += 1
                pairs[row[j], row[i]] += 1
    count = np.bincount(np.concatenate(list(train.values())), minlength=corpus.num_items)
    by_count = sorted(range(corpus.num_items), key=lambda item: (-count[item], item))
    for query, got in zip(queries, expected_ranks(corpus, queries), strict=True):
        first, target = corpus.user_start[corpus.user_idx[query]], corpus.item_idx[query]
        votes = pairs[corpus.item_idx[max(first, query - 20) : query]].sum(0)
        by_votes = sorted(np.flatnonzero(votes), key=lambda item: (-votes[item], item))
        places = [
            ranking.index(target) + 1 for ranking in (by_votes, by_count) if target in ranking
        ]
        assert got == min(places)


def named(*metrics: str) -> set[str]:
    return {f"{metric}@{k}" for k in (1, 2) for metric in metrics}


def test_a_scorecard_leaves_out_what_has_no_backdrop() -> None:
    lists, ranks = np.array([[0, 1], [2, -1]]), np.array([2, 0])
    bare = score_lists(lists, ranks, (1, 2))
    assert set(bare.overall) == named("recall", "ndcg", "hr", "mrr", "map")
    assert bare.lists == {}
    profiles = Ragged(np.array([0, 0], np.int32), np.array([0, 1, 2]))
    backdrop = Backdrop(np.array([4, 2, 0]), profiles, np.eye(3), np.array([1, 1]))
    full = score_lists(lists, ranks, (1, 2), backdrop)
    assert full.overall["popularity_gap@2"] == pytest.approx((3 + 0) / 8 - 1)
    assert full.overall["serendipity@2"] == 0
    assert full.overall["diversity@2"] == 1  # of the only list with two items
    assert "diversity@1" not in full.overall
    assert set(full.lists) == named("popularity", "novelty", "diversity")
    with pytest.raises(ValueError, match="no query to average over"):
        score_lists(lists[:0], ranks[:0], (1,))
