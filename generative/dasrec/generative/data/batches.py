"""Batches of sequences of similar length, in an order that a resumed run repeats."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Sampler

from dasrec.core import generator
from dasrec.generative.data.sequences import IGNORE


class LengthGroupedBatches(Sampler[list[int]]):
    """Batches of rows of one task and of similar length; shuffled anew for every epoch.

    The order depends on (seed, epoch) alone, so that a run resumed at an epoch repeats it.
    """

    def __init__(
        self,
        lengths: Sequence[npt.NDArray[np.int64]],
        fractions: Sequence[float],
        batch_size: int,
        seed: int,
    ) -> None:
        """Plan the batches.

        Args:
            lengths: per task the tokens of each of its rows; rows are numbered through the tasks.
            fractions: per task the share of its rows drawn (without repeats) in an epoch.
            batch_size: sequences per batch.
            seed: the run's seed.
        """
        self.lengths = lengths
        self.counts = [
            min(len(rows), round(len(rows) * fraction))
            for rows, fraction in zip(lengths, fractions, strict=True)
        ]
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches per epoch."""
        return sum(-(-count // self.batch_size) for count in self.counts)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield row numbers batch by batch."""
        rng = generator(self.seed, "batches", self.epoch)
        batches: list[npt.NDArray[np.int64]] = []
        first = 0
        for lengths, count in zip(self.lengths, self.counts, strict=True):
            rows = rng.permutation(len(lengths))[:count]
            # Jitter keeps rows of neighbouring lengths from always sharing a batch.
            rows = rows[np.argsort(lengths[rows] * (1 + 0.1 * rng.random(count)), kind="stable")]
            cuts = np.arange(self.batch_size, count, self.batch_size)
            batches += np.split(rows + first, cuts) if count else []
            first += len(lengths)
        for index in rng.permutation(len(batches)):
            yield batches[index].tolist()


class SequenceCollator:
    """Pads on the right; hides the user's SID from a share of the sequences.

    A user's SID is learned from the same interactions that the sequence asks for. Hiding it now
    and then keeps the model from leaning on it, and teaches prompts without a known user.
    """

    def __init__(
        self, pad_token_id: int, user_token: int, anonymous_token: int, prefix: int, dropout: float
    ) -> None:
        """Remember the tokens; `prefix` counts the tokens of a known user's sequence start."""
        self.pad_token_id = pad_token_id
        self.user_token, self.anonymous_token = user_token, anonymous_token
        self.prefix = prefix
        self.dropout = dropout

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Pad `input_ids` and `labels` to the longest row: two (B, T) int64 tensors."""
        hidden = torch.rand(len(rows)).tolist()
        pairs = [
            self._hide_user(row["input_ids"], row["labels"], draw)
            for row, draw in zip(rows, hidden, strict=True)
        ]
        width = max(len(ids) for ids, _ in pairs)
        input_ids = torch.full((len(rows), width), self.pad_token_id)
        labels = torch.full((len(rows), width), IGNORE)
        for index, (ids, targets) in enumerate(pairs):
            input_ids[index, : len(ids)] = torch.as_tensor(ids)
            labels[index, : len(ids)] = torch.as_tensor(targets)
        return {"input_ids": input_ids, "labels": labels}

    def _hide_user(self, ids: Any, targets: Any, draw: float) -> tuple[Any, Any]:
        if draw >= self.dropout or ids[0] != self.user_token:
            return ids, targets
        return (
            [self.anonymous_token, *ids[self.prefix :]],
            [IGNORE, *targets[self.prefix :]],
        )
