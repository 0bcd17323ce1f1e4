"""Which rows go together in a batch, in an order that a resumed run repeats.

Rows are many (some per user), so nothing here loops over them.

Shape letters: B rows of a batch.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from dasrec.core import generator


class BatchSampler(Sampler[list[int]]):
    """Batches of rows of all tasks, drawn anew for every epoch.

    The order depends on (seed, epoch) alone, so that a run resumed at an epoch repeats it. Several
    processes share each batch: together they see what one process with a batch that many times
    larger sees.
    """

    def __init__(
        self,
        lengths: Sequence[npt.NDArray[np.int64]],
        fractions: Sequence[float],
        batch_size: int,
        seed: int,
        *,
        grouped: bool = True,
        user_dropout: float = 0.0,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        """Plan the batches.

        Args:
            lengths: per task the tokens of each of its rows; rows are numbered through the tasks.
            fractions: per task the share of its rows drawn (without repeats) in an epoch.
            batch_size: rows per batch and process.
            seed: the run's seed.
            grouped: put rows of similar length together, so that padding them costs little.
            user_dropout: share of the rows whose user is to be hidden.
            process: number of this process.
            processes: processes that share every batch.

        Raises:
            ValueError: there are fewer rows than processes.
        """
        self.lengths = lengths
        self.counts = [
            min(len(rows), round(len(rows) * fraction))
            for rows, fraction in zip(lengths, fractions, strict=True)
        ]
        self.size = batch_size * processes
        self.seed, self.grouped, self.user_dropout = seed, grouped, user_dropout
        self.process, self.processes = process, processes
        self.epoch = 0
        if sum(self.counts) < processes:
            raise ValueError(
                f"{sum(self.counts)} training rows for {processes} processes; start fewer"
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        self.epoch = epoch

    @property
    def _cuts(self) -> npt.NDArray[np.int64]:
        """Where batches but the first begin; every process gets a row of the last one too."""
        return np.arange(self.size, sum(self.counts) - self.processes + 1, self.size)

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._cuts) + 1

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this process's row numbers batch by batch; ~r is row r with its user hidden."""
        rng = generator(self.seed, "batches", self.epoch)
        firsts = np.cumsum([0, *map(len, self.lengths)])
        rows = np.concatenate(
            [
                first + rng.permutation(len(lengths))[:count]
                for first, lengths, count in zip(firsts, self.lengths, self.counts, strict=False)
            ]
        )
        if self.grouped:
            # Jitter keeps rows of neighbouring lengths from always sharing a batch.
            lengths = np.concatenate(self.lengths)[rows] * (1 + 0.1 * rng.random(len(rows)))
            rows = rows[np.argsort(lengths, kind="stable")]
        else:
            rows = rng.permutation(rows)
        rows = np.where(rng.random(len(rows)) < self.user_dropout, ~rows, rows)
        batches = np.split(rows, self._cuts)
        for index in rng.permutation(len(batches)):
            yield batches[index][self.process :: self.processes].tolist()


class FlatRows(NamedTuple):
    """Rows of different lengths, one after the other."""

    tokens: npt.NDArray[np.int64]
    """(total,)"""
    labels: npt.NDArray[np.int64]
    """(total,) token ids, `IGNORE` where nothing is learned."""
    starts: npt.NDArray[np.int64]
    """(B + 1,) row r is `tokens[starts[r]:starts[r + 1]]`."""
    hidden: npt.NDArray[np.bool_]
    """(B,) whether the row's user is to be hidden."""


class RowReader(TorchDataset[FlatRows]):
    """Reads the rows of a batch from Arrow (in memory or on disk) at once."""

    def __init__(self, dataset: Dataset) -> None:
        """Read from `dataset`, which has the list columns input_ids and labels."""
        self.table = dataset.with_format("arrow")

    def __len__(self) -> int:
        """Rows."""
        return len(self.table)

    def __getitems__(self, draws: list[int]) -> FlatRows:
        """The rows that a batch of the sampler names."""
        drawn = np.array(draws)
        hidden = drawn < 0
        table = self.table[np.where(hidden, ~drawn, drawn)]
        tokens, labels = (_flat(table[name]) for name in ("input_ids", "labels"))
        lengths = row_lengths(table)
        return FlatRows(tokens, labels, np.concatenate([[0], np.cumsum(lengths)]), hidden)


class EpochLoader(DataLoader[Any]):
    """A DataLoader that tells its batch sampler the epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields."""
        assert isinstance(self.batch_sampler, BatchSampler)
        self.batch_sampler.set_epoch(epoch)


def row_lengths(table: pa.Table) -> npt.NDArray[np.int64]:
    """(rows,) tokens of each row of a table."""
    chunks = [chunk.value_lengths().to_numpy() for chunk in table["input_ids"].chunks]
    return np.concatenate(chunks).astype(np.int64) if chunks else np.empty(0, np.int64)


def _flat(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    parts = [chunk.flatten().to_numpy() for chunk in column.chunks]
    return np.concatenate(parts).astype(np.int64)
