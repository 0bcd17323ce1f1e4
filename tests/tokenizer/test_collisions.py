"""Collision policies against plain greedy loops."""

from collections import defaultdict

import numpy as np
import pytest

from dasrec.core import SidTable
from dasrec.tokenizer import AssignConfig
from dasrec.tokenizer.assign import resolve_collisions
from dasrec.tokenizer.collisions import groups_of, rank_in_group, reassign_last

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


def test_reassign_last_is_the_greedy_rule(world: tuple[SidTable, np.ndarray, np.ndarray]) -> None:
    table, residual, popularity = world
    codes, book = table.codes.astype(np.int64), table.codebooks[-1]
    expected = codes.copy()
    taken, moving = set(), []
    for i in by_priority(popularity):
        key = tuple(codes[i])
        if key in taken:
            moving.append(i)
        taken.add(key)
    for i in moving:
        distances = ((residual[i] - book) ** 2).sum(1)
        for code in np.argsort(distances, kind="stable"):
            key = (*codes[i, :2], code)
            if key not in taken:
                expected[i, 2] = code
                taken.add(key)
                break
    assert len(moving) > 20
    np.testing.assert_array_equal(reassign_last(codes, residual, book, popularity), expected)

    config = AssignConfig(collisions="reassign_last")
    out = resolve_collisions(config, table, residual, popularity)
    assert len(np.unique(out.codes, axis=0)) == ITEMS
    z = sum(book[out.codes[:, level]] for level, book in enumerate(out.codebooks))
    np.testing.assert_allclose(out.vectors, z, rtol=1e-5, atol=1e-5)


def test_reassign_last_refuses_what_cannot_be_done() -> None:
    codes, zeros = np.zeros((3, 2), np.int64), np.zeros((3, 1), np.float32)
    with pytest.raises(ValueError, match=r"at most 2 items under one prefix.*got 3.*extra_level"):
        reassign_last(codes, zeros[:3], zeros[:2], np.zeros(3, int))


def test_share_changes_nothing(world: tuple[SidTable, np.ndarray, np.ndarray]) -> None:
    table, residual, popularity = world
    assert (
        resolve_collisions(AssignConfig(collisions="share"), table, residual, popularity) is table
    )


def test_rank_in_group_by_hand() -> None:
    group, popularity = np.array([0, 1, 0, 0, 1]), np.array([1, 5, 7, 1, 5])
    assert rank_in_group(group, popularity).tolist() == [1, 0, 0, 2, 1]
