"""Batches of prompts, and what the trainers of both methods are given."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dasrec.generative.data.batches import BatchSampler, EpochLoader
from dasrec.generative.training.validation import Validator


class PromptBatches(BatchSampler):
    """Batches of prompts of similar length; each may come several times in a row."""

    def __init__(
        self, lengths: npt.NDArray[np.int64], batch_size: int, seed: int, times: int = 1
    ) -> None:
        """Plan the batches.

        Args:
            lengths: tokens of each prompt.
            batch_size: prompts per batch.
            seed: the run's seed.
            times: how often each batch comes.
        """
        super().__init__([lengths], [1.0], batch_size, seed)
        self.times = times

    def __len__(self) -> int:
        """Batches per epoch."""
        return super().__len__() * self.times

    def __iter__(self) -> Iterator[list[int]]:
        """Yield every batch `times` times."""
        for batch in super().__iter__():
            for _ in range(self.times):
                yield batch


@dataclass(frozen=True)
class AlignPlan:
    """What `SidTrainerMixin` asks for."""

    numbers: npt.NDArray[np.int64]
    """Prompts that are trained on."""
    batches: PromptBatches
    collator: Any
    """Numbers of prompts -> tensors; not `packed`."""
    validator: Validator | None

    def loader(self, args: Any) -> EpochLoader:
        """Batches of prompts."""
        return EpochLoader(
            self.numbers,  # type: ignore[arg-type]  # anything with len and [] is a data set
            batch_sampler=self.batches,
            collate_fn=self.collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
        )
