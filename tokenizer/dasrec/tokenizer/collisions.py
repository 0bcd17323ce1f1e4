"""Several items, one SID: counting such groups and taking them apart. Pure NumPy, deterministic.

Every function takes rows that are fixed already (published SIDs): they keep their codes, and what
they hold is not given out again.

Shape letters: I items, L levels, K codebook size, D code dimension, M items to move, P prefixes.
"""

import itertools

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

BLOCK = 8_192
"""Prefixes treated at a time; bounds the memory to a few (BLOCK, K) tables."""


def groups_of(codes_IL: npt.NDArray[np.integer]) -> Ints:
    """Group number of each row; equal rows have equal numbers. (I,), 0 to groups - 1."""
    group_I = np.zeros(len(codes_IL), np.int64)
    for code_I in codes_IL.T.astype(np.int64):  # one level at a time: no overflow of a joint key
        joint_I = group_I * (int(code_I.max(initial=0)) + 1) + code_I
        group_I = np.unique(joint_I, return_inverse=True)[1].reshape(-1)
    return group_I


def rank_in_group(group_I: Ints, popularity_I: Ints) -> Ints:
    """Place (from 0) of each row in its group: most popular first, then by row number."""
    order = np.lexsort((np.arange(len(group_I)), -popularity_I, group_I))
    first = np.flatnonzero(np.diff(group_I[order], prepend=-1))  # where each group begins
    lengths = np.diff(np.append(first, len(order)))
    rank_I = np.empty(len(order), np.int64)
    rank_I[order] = np.arange(len(order)) - np.repeat(first, lengths)
    return rank_I


def number_groups(codes_IL: Ints, popularity_I: Ints, held_I: Ints | None = None) -> Ints:
    """The extra code of each item: its number among the items with the same codes.

    Args:
        codes_IL: learned codes.
        popularity_I: training interactions; the most popular item is numbered first.
        held_I: numbers that fixed rows have, -1 for the others, whose numbers follow the highest
            one held in their group. None fixes nothing.
    """
    group_I = groups_of(codes_IL)
    if held_I is None:
        return rank_in_group(group_I, popularity_I)
    free = np.flatnonzero(held_I < 0)
    next_G = np.zeros(int(group_I.max(initial=0)) + 1, np.int64)
    np.maximum.at(next_G, group_I, held_I + 1)
    number_I = held_I.copy()
    number_I[free] = next_G[group_I[free]] + rank_in_group(group_I[free], popularity_I[free])
    return number_I


def reassign_last(
    codes_IL: Ints,
    residual_ID: Floats,
    codebook_KD: Floats,
    popularity_I: Ints,
    *,
    cap: int = 1,
    fixed_I: Bools | None = None,
) -> Ints:
    """Bring every SID down to `cap` items by changing last codes (FORGE, das-method 5.9).

    In each group of equal SIDs the `cap` most popular items keep their codes. The others, the most
    popular first, take the codeword nearest to their residual whose SID still has room. With
    `cap` 1 SIDs become unique.

    Args:
        codes_IL: codes with collisions.
        residual_ID: r^L, what the last level quantizes.
        codebook_KD: codebook of the last level.
        popularity_I: training interactions of each item.
        cap: items per SID at most.
        fixed_I: rows that stay where they are, whatever their popularity; None fixes nothing.

    Raises:
        ValueError: more items under one prefix than `cap` for each last-level codeword.
    """
    size = len(codebook_KD)
    prefix_I = groups_of(codes_IL[:, :-1])
    crowd = int(np.bincount(prefix_I).max(initial=0))
    if crowd > size * cap:
        raise ValueError(
            f"assign.collisions: needs at most {size * cap} items under one prefix ({cap} for "
            f"each of the {size} codewords of the last level), got {crowd}; use 'extra_level', a "
            "larger cap or larger levels"
        )
    priority_I = popularity_I.astype(np.int64)
    if fixed_I is not None:
        priority_I = np.where(fixed_I, priority_I.max(initial=0) + 1, priority_I)
    move_I = rank_in_group(groups_of(codes_IL), priority_I) >= cap
    if fixed_I is not None:
        move_I &= ~fixed_I
    codes_IL = codes_IL.copy()
    # Prefixes do not compete: those with something to move are renumbered and taken in blocks.
    crowded = np.unique(prefix_I[move_I])
    place_I = np.searchsorted(crowded, prefix_I)
    place_I[~np.isin(prefix_I, crowded)] = -1
    rows = np.lexsort((np.arange(len(place_I)), -priority_I, place_I))
    starts = np.searchsorted(place_I[rows], np.arange(0, len(crowded) + BLOCK, BLOCK))
    for first, end in itertools.pairwise(starts):
        block = rows[first:end]
        _move_block(codes_IL, block, place_I[block], move_I[block], residual_ID, codebook_KD, cap)
    return codes_IL


def _move_block(
    codes_IL: Ints,
    rows_B: Ints,
    place_B: Ints,
    move_B: Bools,
    residual_ID: Floats,
    codebook_KD: Floats,
    cap: int,
) -> None:
    """Move the marked rows of some prefixes; rows come by prefix, in each the most popular first.

    Round n moves the n-th item of every prefix at once.
    """
    size = len(codebook_KD)
    place_B = place_B - place_B[0]
    stay = ~move_B
    slot = place_B[stay] * size + codes_IL[rows_B[stay], -1]
    room_PK = cap - np.bincount(slot, minlength=(int(place_B[-1]) + 1) * size).reshape(-1, size)
    length_K = (codebook_KD**2).sum(1)

    moving_M, place_M = rows_B[move_B], place_B[move_B]
    first = np.flatnonzero(np.diff(place_M, prepend=-1))
    counts = np.diff(np.append(first, len(place_M)))
    for number in range(int(counts.max())):
        at = first[counts > number] + number
        distance = length_K - 2 * residual_ID[moving_M[at]] @ codebook_KD.T
        distance[room_PK[place_M[at]] <= 0] = np.inf
        chosen = distance.argmin(1)
        codes_IL[moving_M[at], -1] = chosen
        room_PK[place_M[at], chosen] -= 1
