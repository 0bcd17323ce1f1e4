"""Ragged item sequences as padded batches.

Shape letters: W windows, B sequences of a batch, T places.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dasrec.core import Ragged
from dasrec.core.corpus import Int32s, Int64s

PARTS = 4
"""Parts of a batch that are padded on their own."""


class Windows(NamedTuple):
    """Pieces of sequences: window w reads `values[first[w]:first[w] + length[w]]`."""

    values: Int32s
    first: Int64s
    """(W,)"""
    length: Int64s
    """(W,) inputs; the targets are the same places, one later."""


def training_windows(sequences: Ragged, max_length: int) -> Windows:
    """Cut sequences so that every event but a user's first is a target exactly once.

    Windows are cut from the end backwards, at most `max_length` inputs each; users with fewer than
    two events give none.
    """
    num_targets = np.maximum(np.diff(sequences.starts) - 1, 0)
    pieces = -(-num_targets // max_length)
    piece = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = np.repeat(sequences.starts[:-1], pieces)
    end = np.repeat(sequences.starts[1:] - 1, pieces) - piece * max_length
    first = np.maximum(start, end - max_length)
    return Windows(sequences.values, first, end - first)


def pad(windows: Windows, chosen: Int64s, pad_item: int, shift: int = 0) -> Tensor:
    """(B, T) items of the chosen windows, `shift` places later, padded on the right.

    T is the longest of the chosen windows.
    """
    length = windows.length[chosen]
    place = np.arange(length.max())
    real = place < length[:, None]
    index = np.where(real, windows.first[chosen, None] + place + shift, 0)
    return torch.from_numpy(np.where(real, windows.values[index], pad_item).astype(np.int64))


def shuffled_batches(
    length: Int64s, batch_size: int, generator: np.random.Generator
) -> Iterator[list[Int64s]]:
    """Random batches, each in up to `PARTS` parts of windows of like length.

    Only the parts are of like length, for little padding. Whole batches of like length would not
    do: the loss is a mean over a batch's targets, so that a target of a short sequence would weigh
    many times one of a long sequence.
    """
    order = generator.permutation(len(length))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        batch = batch[np.argsort(length[batch], kind="stable")]
        yield [part for part in np.array_split(batch, PARTS) if len(part)]


def seen_at(items_BT: Tensor, real_BT: Tensor) -> Tensor:
    """(P, T) items up to and with each of the P real positions, filled up with the first one."""
    length = items_BT.shape[1]
    earlier_TT = torch.ones(length, length, dtype=torch.bool, device=items_BT.device).tril()
    seen_BTT = torch.where(earlier_TT, items_BT[:, None, :], items_BT[:, :1, None])
    return seen_BTT[real_BT]


def repeat_log_rate(windows: Windows) -> float:
    """Log of the share of targets that their window already holds, counting one more repeat."""
    row = np.repeat(np.arange(len(windows.length)), windows.length + 1)
    start = np.cumsum(windows.length + 1) - windows.length - 1
    place = np.arange(len(row)) - start[row]
    item = windows.values[windows.first[row] + place].astype(np.int64)
    distinct = len(np.unique(row * (int(windows.values.max()) + 1) + item))
    return float(np.log((len(row) - distinct + 1) / (windows.length.sum() + 1)))
