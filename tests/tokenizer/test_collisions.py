"""Collision policies against plain greedy loops."""

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from dasrec.core import SidTable
from dasrec.tokenizer import AssignConfig
from dasrec.tokenizer.collisions import (
    groups_of,
    number_groups,
    rank_in_group,
    reassign_last,
)
from dasrec.tokenizer.policies import resolve_collisions

ITEMS, SIZES, DIM = 120, (3, 4, 16), 5


@pytest.fixture
def world() -> tuple[SidTable, np.ndarray, np.ndarray]:
    """Many collisions; popularity with ties."""
    rng = np.random.default_rng(0)
    books = tuple(rng.normal(size=(size, DIM)).astype(np.float32) for size in SIZES)
    codes = np.column_stack([rng.integers(size, size=ITEMS) for size in (3, 4, 5)])
    z = sum(book[codes[:, level]] for level, book in enumerate(books))
    residual = (books[-1][codes[:, -1]] + 0.3 * rng.normal(size=(ITEMS, DIM))).astype(np.float32)
    table = SidTable(codes.astype(np.uint16), SIZES, np.asarray(z, np.float32), books)
    return table, residual, rng.integers(6, size=ITEMS)


def by_priority(popularity: np.ndarray) -> list[int]:
    return sorted(range(len(popularity)), key=lambda i: (-popularity[i], i))


def test_groups_are_equal_rows() -> None:
    codes = np.random.default_rng(0).integers(3, size=(60, 3)).astype(np.uint16)
    groups = groups_of(codes)
    same = (codes[:, None] == codes[None]).all(2)
    np.testing.assert_array_equal(groups[:, None] == groups, same)
    assert set(groups) == set(range(groups.max() + 1))
    wide = np.full((4, 5), 65_535, np.uint16)
    wide[2, 0] = 0
    assert groups_of(wide).tolist() == [1, 1, 0, 1]


def test_extra_level_numbers_groups_by_popularity(
    world: tuple[SidTable, np.ndarray, np.ndarray],
) -> None:
    table, residual, popularity = world
    seen: dict[tuple[int, ...], int] = defaultdict(int)
    expected = np.zeros(ITEMS, int)
    for i in by_priority(popularity):
        expected[i] = seen[tuple(table.codes[i])]
        seen[tuple(table.codes[i])] += 1
    out = resolve_collisions(AssignConfig(), table, residual, popularity)
    np.testing.assert_array_equal(out.codes[:, 3], expected)
    np.testing.assert_array_equal(out.codes[:, :3], table.codes)
    assert out.level_sizes == (*SIZES, max(seen.values()))
    assert len(np.unique(out.codes, axis=0)) == ITEMS
    assert len(out.codebooks) == 3
    config = AssignConfig(extra_level_size=50)
    assert resolve_collisions(config, table, residual, popularity).level_sizes[3] == 50


def greedy(
    codes: np.ndarray,
    residual: np.ndarray,
    book: np.ndarray,
    popularity: np.ndarray,
    cap: int = 1,
    fixed: np.ndarray | None = None,
) -> tuple[np.ndarray, list[int]]:
    """One item after the other: stay where there is room, else the nearest codeword with room."""
    expected, held, moving = codes.copy(), Counter[tuple[int, ...]](), []
    order = by_priority(popularity)
    if fixed is not None:
        order = sorted(order, key=lambda i: not fixed[i])
    for i in order:
        key = tuple(codes[i])
        if held[key] == cap and not (fixed is not None and fixed[i]):
            moving.append(i)
        else:
            held[key] += 1
    for i in moving:
        for code in np.argsort(((residual[i] - book) ** 2).sum(1), kind="stable"):
            key = (*codes[i, :-1], code)
            if held[key] < cap:
                expected[i, -1] = code
                held[key] += 1
                break
    return expected, moving


@pytest.mark.parametrize("cap", [1, 2, 3])
@pytest.mark.parametrize("block", [2, 8_192])
def test_moves_are_the_greedy_rule(
    world: tuple[SidTable, np.ndarray, np.ndarray],
    cap: int,
    block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dasrec.tokenizer.collisions.BLOCK", block)
    table, residual, popularity = world
    codes, book = table.codes.astype(np.int64), table.codebooks[-1]
    expected, moving = greedy(codes, residual, book, popularity, cap)
    assert len(moving) > 10 * (3 - cap)
    got = reassign_last(codes, residual, book, popularity, cap=cap)
    np.testing.assert_array_equal(got, expected)


def test_fixed_rows_keep_their_codes_and_their_room(
    world: tuple[SidTable, np.ndarray, np.ndarray],
) -> None:
    table, residual, popularity = world
    codes, book = table.codes.astype(np.int64), table.codebooks[-1]
    fixed = np.arange(ITEMS) % 3 > 0
    codes[fixed] = reassign_last(codes[fixed], residual[fixed], book, popularity[fixed])
    got = reassign_last(codes, residual, book, popularity, fixed_I=fixed)
    np.testing.assert_array_equal(got, greedy(codes, residual, book, popularity, 1, fixed)[0])
    np.testing.assert_array_equal(got[fixed], codes[fixed])
    assert len(np.unique(got, axis=0)) == ITEMS


def test_fixed_rows_stay_even_where_they_share() -> None:
    codes, book = np.zeros((3, 2), np.int64), np.arange(4, dtype=np.float32)[:, None]
    fixed = np.array([True, False, True])
    got = reassign_last(codes, np.ones((3, 1), np.float32), book, np.arange(3), fixed_I=fixed)
    assert got[:, 1].tolist() == [0, 1, 0]


@pytest.mark.parametrize(("policy", "cap"), [("reassign_last", None), ("cap", 3)])
def test_policies_move_codes_and_vectors_together(
    world: tuple[SidTable, np.ndarray, np.ndarray], policy: Any, cap: int | None
) -> None:
    table, residual, popularity = world
    out = resolve_collisions(AssignConfig(collisions=policy, cap=cap), table, residual, popularity)
    assert np.unique(out.codes, axis=0, return_counts=True)[1].max() == (cap or 1)
    z = sum(book[out.codes[:, level]] for level, book in enumerate(out.codebooks))
    np.testing.assert_allclose(out.vectors, z, rtol=1e-5, atol=1e-5)


def test_cap_stands_with_its_policy_only() -> None:
    for policy, cap in (("cap", None), ("reassign_last", 2), ("extra_level", 2)):
        with pytest.raises(ValidationError, match="cap"):
            AssignConfig(collisions=policy, cap=cap)  # type: ignore[arg-type]


def test_numbers_follow_the_highest_one_held() -> None:
    codes = np.array([[0], [0], [0], [1], [1], [2]])
    popularity = np.array([1, 9, 5, 1, 2, 0])
    assert number_groups(codes, popularity).tolist() == [2, 0, 1, 1, 0, 0]
    held = np.array([3, -1, -1, 0, -1, -1])  # 0 to 2 may be held by retired items of no row here
    assert number_groups(codes, popularity, held).tolist() == [3, 4, 5, 0, 1, 0]


def test_reassign_last_refuses_what_cannot_be_done() -> None:
    codes, zeros = np.zeros((5, 2), np.int64), np.zeros((5, 1), np.float32)
    with pytest.raises(ValueError, match=r"at most 2 items under one prefix.*got 5.*extra_level"):
        reassign_last(codes, zeros, zeros[:2], np.zeros(5, int))
    with pytest.raises(ValueError, match=r"at most 4 items.*got 5"):
        reassign_last(codes, zeros, zeros[:2], np.zeros(5, int), cap=2)


def test_share_changes_nothing(world: tuple[SidTable, np.ndarray, np.ndarray]) -> None:
    table, residual, popularity = world
    assert (
        resolve_collisions(AssignConfig(collisions="share"), table, residual, popularity) is table
    )


def test_rank_in_group_by_hand() -> None:
    group, popularity = np.array([0, 1, 0, 0, 1]), np.array([1, 5, 7, 1, 5])
    assert rank_in_group(group, popularity).tolist() == [1, 0, 0, 2, 1]
