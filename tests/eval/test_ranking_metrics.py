from math import log2

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, R, Success, nDCG

from dasrec.core import Ragged
from dasrec.eval.ranking_metrics import (
    hr_at_k,
    map_at_k,
    mrr_at_k,
    ndcg_at_k,
    rank_of_target,
    ranking_metrics,
    ranks_of_targets,
    recall_at_k,
)

KS = (1, 3, 10, 40)  # 40 is more than any list holds


def random_lists(
    rng: np.random.Generator, num_queries: int, width: int, num_items: int
) -> np.ndarray:
    """Distinct items a row, cut to random lengths, some rows empty."""
    lists = rng.random((num_queries, num_items)).argsort(1)[:, :width]
    lengths = rng.integers(0, width + 1, num_queries)
    return np.where(np.arange(width) < lengths[:, None], lists, -1)


def random_targets(rng: np.random.Generator, num_queries: int, num_items: int) -> Ragged:
    counts = rng.integers(1, 6, num_queries)
    rows = [rng.choice(num_items, count, replace=False) for count in counts]
    starts = np.concatenate([[0], np.cumsum(counts)])
    return Ragged(np.concatenate(rows).astype(np.int32), starts)


def ir_measures_says(lists: np.ndarray, targets: Ragged, ks: tuple[int, ...]) -> dict[str, float]:
    """The same metrics by ir-measures (pytrec_eval); queries with empty lists stay in."""
    qrels = [
        ir_measures.Qrel(str(q), str(item), 1)
        for q in range(len(lists))
        for item in targets.values[targets.starts[q] : targets.starts[q + 1]]
    ]
    run = [
        ir_measures.ScoredDoc(str(q), str(item), float(-rank))  # strictly decreasing: no ties
        for q, row in enumerate(lists)
        for rank, item in enumerate(row[row >= 0])
    ]
    names = {"recall": R, "ndcg": nDCG, "hr": Success, "mrr": RR, "map": AP}
    measures = {f"{name}@{k}": measure @ k for name, measure in names.items() for k in ks}
    found = ir_measures.calc_aggregate(list(measures.values()), qrels, run)
    return {name: found[measure] for name, measure in measures.items()}


def test_agrees_with_ir_measures_on_one_target() -> None:
    rng = np.random.default_rng(0)
    lists = random_lists(rng, 400, width=25, num_items=60)
    targets = rng.integers(0, 60, 400, np.int32)
    starts = np.arange(401)
    assert ranking_metrics(lists, targets, KS) == pytest.approx(
        ir_measures_says(lists, Ragged(targets, starts), KS), abs=1e-9
    )


def test_agrees_with_ir_measures_on_several_targets() -> None:
    rng = np.random.default_rng(1)
    lists = random_lists(rng, 400, width=25, num_items=60)
    targets = random_targets(rng, 400, 60)
    assert ranking_metrics(lists, targets, KS) == pytest.approx(
        ir_measures_says(lists, targets, KS), abs=1e-9
    )


def test_agrees_with_ir_measures_where_lists_repeat_items() -> None:
    rng = np.random.default_rng(4)
    lists = rng.integers(0, 20, (300, 12))
    lists = np.where(np.arange(12) < rng.integers(0, 13, (300, 1)), lists, -1)
    targets = random_targets(rng, 300, 20)
    once = lists.copy()
    for row in once:  # trec_eval knows no repeats: another item takes each repeat's place
        seen: set[int] = set()
        for place, item in enumerate(row.tolist()):
            row[place] = 100 + place if item in seen and item >= 0 else item
            seen.add(item)
    assert (once != lists).any()
    assert ranking_metrics(lists, targets, KS) == pytest.approx(
        ir_measures_says(once, targets, KS), abs=1e-9
    )


def test_written_arithmetic_for_one_target() -> None:
    lists = np.array([[3, 1, 2], [3, 1, 2], [3, 1, 2], [1, -1, -1], [-1, -1, -1]])
    targets = np.array([3, 2, 9, 1, 1])  # ranks 1, 3, absent, 1, empty list
    got = ranking_metrics(lists, targets, (2, 3))
    assert got["recall@2"] == got["hr@2"] == pytest.approx((1 + 0 + 0 + 1 + 0) / 5)
    assert got["recall@3"] == pytest.approx((1 + 1 + 0 + 1 + 0) / 5)
    assert got["ndcg@3"] == pytest.approx((1 + 1 / log2(4) + 0 + 1 + 0) / 5)
    assert got["mrr@3"] == pytest.approx((1 + 1 / 3 + 0 + 1 + 0) / 5)


def test_written_arithmetic_for_several_targets() -> None:
    lists = np.array([[5, 6, 7, 8], [5, 6, -1, -1]])
    targets = Ragged(np.array([8, 6, 0, 5], np.int32), np.array([0, 3, 4]))
    ranks = ranks_of_targets(lists, targets)
    assert ranks.tolist() == [4, 2, 0, 1]
    args = (ranks, 4, targets.starts)
    assert recall_at_k(*args).tolist() == pytest.approx([2 / 3, 1])
    assert hr_at_k(*args).tolist() == [1, 1]
    assert mrr_at_k(*args).tolist() == [1 / 2, 1]
    assert map_at_k(*args).tolist() == pytest.approx([(1 / 2 + 2 / 4) / 3, 1])
    ideal = 1 + 1 / log2(3) + 1 / log2(4)
    assert ndcg_at_k(*args).tolist() == pytest.approx([(1 / log2(5) + 1 / log2(3)) / ideal, 1])
    # with K = 2 the ideal list has two hits, not three
    assert ndcg_at_k(ranks, 2, targets.starts)[0] == pytest.approx(
        (1 / log2(3)) / (1 + 1 / log2(3))
    )


def test_a_perfect_list_scores_one_however_many_targets() -> None:
    lists = np.arange(10)[None].repeat(3, 0)
    targets = Ragged(np.array([0, 0, 1, 2, 0, 1], np.int32), np.array([0, 1, 4, 6]))
    assert ndcg_at_k(ranks_of_targets(lists, targets), 5, targets.starts).tolist() == [1, 1, 1]


def test_a_repeated_item_counts_once_at_its_first_place() -> None:
    lists = np.array([[4, 9, 9, 9]])
    assert rank_of_target(lists, np.array([9])).tolist() == [2]
    both = Ragged(np.array([9, 4], np.int32), np.array([0, 2]))
    assert recall_at_k(ranks_of_targets(lists, both), 4, both.starts).tolist() == [1]


def test_many_lists_in_blocks_give_what_a_loop_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dasrec.eval.ranking_metrics._BLOCK", 64)
    rng = np.random.default_rng(2)
    lists = random_lists(rng, 50, width=7, num_items=12)
    targets = rng.integers(0, 12, 50)
    rows: list[list[int]] = lists.tolist()
    slow = [
        row.index(t) + 1 if t in row else 0 for row, t in zip(rows, targets.tolist(), strict=True)
    ]
    assert rank_of_target(lists, targets).tolist() == slow


def test_a_hundred_thousand_lists_of_fifty() -> None:
    rng = np.random.default_rng(3)
    lists = (rng.integers(0, 200, (100_000, 1)) + np.arange(50)).astype(np.int32)
    targets = rng.integers(0, 250, 100_000)
    ranks = targets - lists[:, 0] + 1
    expected = ((ranks >= 1) & (ranks <= 10)).mean()
    assert ranking_metrics(lists, targets)["recall@10"] == pytest.approx(expected)


def test_lists_of_no_width_are_misses() -> None:
    assert ranking_metrics(np.empty((2, 0), int), np.array([1, 2]), (5,))["recall@5"] == 0


@pytest.mark.parametrize(
    ("lists", "targets", "message"),
    [
        (np.zeros((2, 3), int), np.zeros(3, int), "expected item_idx"),
        (np.zeros((2, 3), int), np.zeros((2, 2), int), "for several targets"),
        (np.zeros((2, 3), int), np.array([0, -1]), "start at 0, got -1"),
        (np.zeros((0, 3), int), np.zeros(0, int), "no query"),
        (np.zeros((2, 3), int), Ragged(np.array([1]), np.array([0, 1, 1])), "query 1 has no"),
        (np.zeros((1, 3), int), Ragged(np.array([1, 1]), np.array([0, 2])), "twice"),
        (np.zeros((1, 3), int), Ragged(np.array([1, 2]), np.array([0, 1, 2])), "2 rows"),
    ],
)
def test_refuses_what_has_no_answer(lists: np.ndarray, targets: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ranking_metrics(lists, targets)  # type: ignore[arg-type]


def test_refuses_a_cut_off_below_one() -> None:
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        ranking_metrics(np.zeros((1, 3), int), np.zeros(1, int), (0,))
