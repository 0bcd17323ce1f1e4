"""What a trie can be built from: codes inside their levels, tokens of their own.

Shape letters: I items, L levels, K codes of a level.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_ROWS = 2**20  # checked at a time; bounds the memory of the temporaries


def checked_tables(
    level_sizes: Sequence[int],
    level_token_ids: Sequence[npt.ArrayLike | Tensor],
    end_token_id: int | None,
) -> tuple[tuple[int, ...], tuple[Tensor, ...]]:
    """Sizes and token tables of the levels, with the end code where there is one.

    Raises:
        ValueError: Not one table per level, of K different ids.
    """
    sizes = [int(size) for size in level_sizes]
    tables = [torch.as_tensor(np.asarray(t), dtype=torch.int64) for t in level_token_ids]
    if not sizes or len(sizes) != len(tables):
        raise ValueError(
            f"level_token_ids: one table per level needed, got {len(tables)} for {len(sizes)} level"
            " sizes"
        )
    if end_token_id is not None:
        for level in range(1, len(sizes)):
            sizes[level] += 1
            tables[level] = torch.cat([tables[level], torch.tensor([end_token_id])])
    for level, (size, table) in enumerate(zip(sizes, tables, strict=True)):
        if table.shape != (size,) or len(torch.unique(table)) != size:
            raise ValueError(
                f"level_token_ids[{level}]: {size} different vocabulary ids needed (the end token"
                f" included), got shape {tuple(table.shape)} with {len(torch.unique(table))}"
                " different"
            )
    return tuple(sizes), tuple(tables)


def checked_codes(
    codes: npt.ArrayLike | Tensor, sizes: Sequence[int], *, has_end: bool
) -> npt.NDArray[np.integer]:
    """(I, L) codes with the padding of short SIDs as codes of their own.

    What follows a short SID is K; with an end token, first K - 1 (its code), then K.

    Raises:
        ValueError: Not a table of L columns, a code outside its level, or -1 before a code.
    """
    codes_IL = np.asarray(codes)
    if codes_IL.ndim != 2 or 0 in codes_IL.shape or codes_IL.dtype.kind not in "iu":
        raise ValueError(
            "codes: a non-empty (items, levels) table of integers needed, got shape"
            f" {codes_IL.shape} of {codes_IL.dtype}"
        )
    if codes_IL.shape[1] != len(sizes):
        raise ValueError(
            f"codes: {codes_IL.shape[1]} levels, but {len(sizes)} level sizes; give one per level"
        )
    ends = np.array([size - (has_end and level > 0) for level, size in enumerate(sizes)])
    low, high = codes_IL.min(0), codes_IL.max(0)
    if (low < [0] + [-1] * (len(sizes) - 1)).any() or (high >= ends).any():
        raise ValueError(
            f"codes: a code outside its level, got {low}..{high} for level sizes {ends.tolist()}"
            " (short SIDs are padded with -1 after their last code)"
        )
    if (low >= 0).all():
        return codes_IL
    padded_IL = codes_IL.astype(np.int64)
    for first in range(0, len(padded_IL), _ROWS):
        _pad(padded_IL[first : first + _ROWS], sizes, first, has_end=has_end)
    return padded_IL


def _pad(
    codes_IL: npt.NDArray[np.int64], sizes: Sequence[int], first: int, *, has_end: bool
) -> None:
    missing_IL = codes_IL < 0
    wrong_I = (missing_IL[:, :-1] & ~missing_IL[:, 1:]).any(1)
    if wrong_I.any():
        row = int(wrong_I.argmax())
        raise ValueError(
            f"codes: item {first + row} has -1 before a code, got {codes_IL[row].tolist()}; -1"
            " only pads short SIDs at their end"
        )
    for level in range(1, len(sizes)):
        ended_I, before_I = missing_IL[:, level], missing_IL[:, level - 1]
        codes_IL[ended_I, level] = sizes[level]
        if has_end:
            codes_IL[ended_I & ~before_I, level] = sizes[level] - 1
