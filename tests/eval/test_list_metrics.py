import numpy as np
import pytest

from dasrec.eval.list_metrics import (
    coverage_at_k,
    describe_lists,
    duplicate_rate,
    gini_at_k,
    invalid_rate,
    novelty_at_k,
    popularity_at_k,
)

LISTS = np.array([[0, 1, 2], [0, 0, 7], [3, -1, -1], [-1, -1, -1]])
COUNT = np.array([5, 3, 1, 0, 0])  # five items, so 7 is none


def test_written_arithmetic() -> None:
    got = describe_lists(LISTS, 3, COUNT)
    assert got["coverage@3"] == pytest.approx(4 / 5)
    assert got["invalid_rate@3"] == pytest.approx((0 + 1 + 2 + 3) / 12)
    assert got["duplicate_rate@3"] == pytest.approx(1 / 6)
    assert got["popularity@3"] == pytest.approx(((5 + 3 + 1) / 3 + (5 + 5) / 2 + 0) / 3)
    bits = -np.log2((COUNT + 1) / (9 + 5))
    expected = (bits[:3].mean() + bits[0] + bits[3]) / 3
    assert got["novelty@3"] == pytest.approx(expected)


def test_gini_is_half_the_relative_mean_difference() -> None:
    lists = np.random.default_rng(0).integers(-1, 30, (200, 10)) ** 2 // 30
    counts = np.bincount(lists[:, :5][lists[:, :5] >= 0], minlength=40).astype(float)
    expected = np.abs(counts[:, None] - counts).mean() / (2 * counts.mean())
    assert gini_at_k(lists, 5, 40) == pytest.approx(expected)


def test_gini_of_an_even_spread_is_zero() -> None:
    assert gini_at_k(np.arange(12).reshape(3, 4), 4, 12) == 0
    assert gini_at_k(np.full((3, 4), -1), 4, 12) == 0


def test_only_the_first_k_count() -> None:
    assert coverage_at_k(LISTS, 1, 5) == pytest.approx(2 / 5)
    assert duplicate_rate(LISTS, 1, 5) == 0
    assert invalid_rate(LISTS, 1, 5) == pytest.approx(1 / 4)


def test_slots_beyond_the_width_are_empty() -> None:
    assert invalid_rate(np.array([[0, 1]]), 8, 5) == pytest.approx(6 / 8)


def test_rarer_items_are_more_novel() -> None:
    assert novelty_at_k(np.array([[3]]), 1, COUNT) > novelty_at_k(np.array([[0]]), 1, COUNT)
    assert popularity_at_k(np.array([[3]]), 1, COUNT) == 0


def test_refuses_what_has_no_answer() -> None:
    with pytest.raises(ValueError, match="k must be at least 1"):
        coverage_at_k(LISTS, 0, 5)
    with pytest.raises(ValueError, match="Q > 0"):
        coverage_at_k(LISTS[:0], 1, 5)
