"""From a table of semantic IDs to the arrays of their prefix tree.

Shape letters: I items, L levels, K codes of a level, N nodes of a level, F leaves (distinct SIDs).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]

_KEY_LIMIT = 2**63


class Tree(NamedTuple):
    """Nodes of every level in the order of their prefixes, and the items below the leaves."""

    tok: list[Ints]
    """L arrays (N,): the last code of each node"""
    child_start: list[Ints]
    """L-1 arrays (N + 1,): children of node n are `child_start[n]:child_start[n + 1]`"""
    item_start: Ints | None
    """(F + 1,): items of leaf f; None where every SID has one item"""
    item_of_place: Ints
    """(I,) int32 items by SID, then falling popularity, then index"""


def build_tree(
    codes_IL: Ints, level_sizes: Sequence[int], popularity: npt.ArrayLike | None, *, has_end: bool
) -> Tree:
    """Sort the items and find where prefixes change.

    Args:
        codes_IL: Checked codes; `level_sizes[l]` in level l is padding of a short SID.
        level_sizes: K of each level.
        popularity: (I,) the order of items that share a SID, most popular first.
        has_end: Whether short SIDs end in a code of their own; else none may begin a longer one.

    Raises:
        ValueError: Popularity that does not fit; SIDs of which one begins another.
    """
    order = _order(codes_IL, level_sizes, _by_popularity(popularity, len(codes_IL)))
    changed = np.zeros(len(order), bool)  # the item's prefix differs from that of the item before
    changed[0] = True
    tok, first = [], []
    for level in range(len(level_sizes)):
        code_I = codes_IL[order, level]
        changed[1:] |= code_I[1:] != code_I[:-1]
        first.append(np.flatnonzero(changed))
        tok.append(_compact(code_I[first[-1]]))
    child_start = [
        np.append(np.searchsorted(below, above), len(below)) for above, below in pairwise(first)
    ]
    if not has_end:
        _check_prefix_free(tok, child_start, first, level_sizes, order)
    shared = len(first[-1]) < len(order)
    return Tree(
        tok,
        child_start,
        np.append(first[-1], len(order)) if shared else None,
        order.astype(np.int32),
    )


def _compact(code_N: Ints) -> Ints:
    """The codes in the smallest type that holds them."""
    highest = int(code_N.max())
    return code_N.astype(np.uint8 if highest < 2**8 else np.int16 if highest < 2**15 else np.int32)


def _by_popularity(popularity: npt.ArrayLike | None, num_items: int) -> Ints | None:
    if popularity is None:
        return None
    values = np.asarray(popularity, np.float64)
    if values.shape != (num_items,):
        raise ValueError(f"popularity: one number per item needed, got shape {values.shape}")
    return np.argsort(-values, kind="stable")


def _order(codes_IL: Ints, sizes: Sequence[int], by_popularity: Ints | None) -> Ints:
    """(I,) items by SID; those of one SID keep their order in `by_popularity`, or their index."""
    if by_popularity is not None:
        codes_IL = codes_IL[by_popularity]
    bases = [size + 1 for size in sizes]
    if float(np.prod(bases, dtype=np.float64)) < _KEY_LIMIT:
        key = np.zeros(len(codes_IL), np.int64)
        for level, base in enumerate(bases):
            key *= base
            key += codes_IL[:, level]
        order = np.argsort(key, kind="stable")
    else:
        order = np.lexsort(codes_IL.T[::-1])  # stable; the last key sorts first
    return order if by_popularity is None else by_popularity[order]


def _check_prefix_free(
    tok: Sequence[Ints],
    child_start: Sequence[Ints],
    first: Sequence[Ints],
    sizes: Sequence[int],
    order: Ints,
) -> None:
    for level, starts in enumerate(child_start, start=1):
        last = starts[1:] - 1  # padding is the highest code, so the last child
        both = (tok[level][last] == sizes[level]) & (np.diff(starts) > 1)
        if both.any():
            at = int(last[both.argmax()])
            short, long = (int(order[first[level][node]]) for node in (at, at - 1))
            raise ValueError(
                f"codes: the SID of item {short} ({level} codes) begins that of item {long}; give"
                " end_token_id, or SIDs of which none begins another"
            )
