"""Several items, one SID: counting such groups and taking them apart. Pure NumPy, deterministic.

Shape letters: I items, L levels, K codebook size, D code dimension, M items to move.
"""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


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


def reassign_last(
    codes_IL: Ints, residual_ID: Floats, codebook_KD: Floats, popularity_I: Ints
) -> Ints:
    """Make SIDs unique by changing last codes.

    In each group of equal SIDs the most popular item keeps its code. The others, the most popular
    first, take the codeword nearest to their residual that no item with the same prefix has.
    Prefixes do not compete, so round n moves the n-th item of every prefix at once.

    Args:
        codes_IL: codes with collisions.
        residual_ID: r^L, what the last level quantizes.
        codebook_KD: codebook of the last level.
        popularity_I: training interactions of each item.

    Raises:
        ValueError: more items under one prefix than there are last-level codewords.
    """
    size = len(codebook_KD)
    prefix_I = groups_of(codes_IL[:, :-1])
    crowd = int(np.bincount(prefix_I).max(initial=0))
    if crowd > size:
        raise ValueError(
            f"assign.collisions 'reassign_last': needs at most {size} items under one prefix (the "
            f"size of the last level), got {crowd}; use 'extra_level' or larger levels"
        )
    codes_IL = codes_IL.copy()
    move = rank_in_group(groups_of(codes_IL), popularity_I) > 0
    free = np.ones((int(prefix_I.max(initial=0)) + 1, size), bool)
    free[prefix_I[~move], codes_IL[~move, -1]] = False

    moving_M = np.flatnonzero(move)
    round_M = rank_in_group(prefix_I[moving_M], popularity_I[moving_M])
    for number in range(int(round_M.max(initial=-1)) + 1):
        rows = moving_M[round_M == number]
        distance = (codebook_KD**2).sum(1) - 2 * residual_ID[rows] @ codebook_KD.T
        chosen = np.where(free[prefix_I[rows]], distance, np.inf).argmin(1)
        codes_IL[rows, -1] = chosen
        free[prefix_I[rows], chosen] = False
    return codes_IL
