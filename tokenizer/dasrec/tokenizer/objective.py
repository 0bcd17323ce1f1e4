"""What a tokenizer method is to the shared training loop, and what all of them end with."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from dasrec.core import Corpus
from dasrec.tokenizer.autoencoder import Autoencoder
from dasrec.tokenizer.pairs import num_plain_batches, plain_batches
from dasrec.tokenizer.quantizer import Encoded


class Side(Protocol):
    """Content of items or of users -> SIDs. Shapes: N rows, X input width, D code dimension."""

    @property
    def codebooks(self) -> list[Tensor]:
        """(K, D) of each level; z is the sum of the chosen codewords."""
        ...

    def quantize(self, x_NX: Tensor) -> Encoded:
        """Codes, z and the residuals that the last and the first level quantized."""
        ...

    def reconstruction_error(self, x_NX: Tensor, z_ND: Tensor) -> float:
        """Mean squared distance of unit x from what z decodes to."""
        ...


class Sides(nn.Module):
    """All that is needed to give out SIDs."""

    items: Any
    users: Any

    def __init__(self, items: nn.Module, users: nn.Module | None = None) -> None:
        """Put two modules that are a `Side` together."""
        super().__init__()
        self.items, self.users = items, users

    def __iter__(self) -> Iterator[tuple[str, Side]]:
        """("item", side) and, where there is one, ("user", side)."""
        yield "item", self.items
        if self.users is not None:
            yield "user", self.users


class Sizes(NamedTuple):
    """Widths of the inputs: enough to build `Sides` for stored weights."""

    items: dict[str, int]
    """Of each item modality that is tokenized."""
    users: int

    @property
    def item_widths(self) -> tuple[int, ...]:
        """Widths of the item modalities, in order."""
        return tuple(self.items.values())


@dataclass(frozen=True)
class Data:
    """What a method learns from."""

    corpus: Corpus
    sizes: Sizes
    items_IX: Tensor
    """The item modalities, side by side."""
    users_UX: Tensor
    modalities: dict[str, np.ndarray[Any, np.dtype[np.float32]]]
    """All item modalities of the embeddings, also those that are not tokenized."""


class Phase(NamedTuple):
    """A stretch of training with its own learning-rate cycle."""

    name: str
    epochs: int
    continuous_epochs: int | None
    """First epochs without quantization; None: no codebooks are trained in this phase."""


class Step(NamedTuple):
    """Where training stands."""

    phase: str
    progress: float
    """Through the phase, in [0, 1)."""
    quantize: bool


class Objective(nn.Module, ABC):
    """A method: `sides`, what is trained beside them, and the losses. Its weights are kept whole
    (for warm starts); giving out SIDs needs `sides` alone."""

    config: Any

    def __init__(self, sides: Sides, data: Data) -> None:
        super().__init__()
        self.sides, self.data = sides, data

    @property
    def phases(self) -> list[Phase]:
        """The phases of training, in order; one unless a method says otherwise."""
        return [Phase("main", self.config.epochs, self.config.num_continuous)]

    def num_steps(self, phase: str) -> int:
        """Batches of an epoch; of content unless a method says otherwise."""
        del phase
        num_users = 0 if self.sides.users is None else len(self.data.users_UX)
        return num_plain_batches(num_users, len(self.data.items_IX), self.config.batch_size)

    def batches(self, phase: str, rng: np.random.Generator) -> Iterator[Any]:
        """One epoch of batches, on `data`'s device; rows of content unless a method says so."""
        del phase
        return self.content_batches(self.config.batch_size, rng)

    @abstractmethod
    def losses(self, batch: Any, step: Step) -> dict[str, Tensor]:
        """The weighted terms of the loss, by name."""

    def autoencoders(self) -> Iterator[tuple[str, Autoencoder, Tensor]]:
        """Those whose codebooks the loop looks after, each with its catalogue's embeddings."""
        yield "item", self.sides.items, self.data.items_IX
        if self.sides.users is not None:
            yield "user", self.sides.users, self.data.users_UX

    def finish(self, seed: int) -> dict[str, float]:
        """What is left to do in closed form after the phases; returns figures."""
        del seed
        return {}

    def content_batches(self, size: int, rng: np.random.Generator) -> Iterator[tuple[Tensor, ...]]:
        """Rows of (items, users): batches for methods that learn from content alone."""
        num_users = 0 if self.sides.users is None else len(self.data.users_UX)
        device = self.data.items_IX.device
        for users, items in plain_batches(num_users, len(self.data.items_IX), size, rng):
            yield torch.from_numpy(items).to(device), torch.from_numpy(users).to(device)


def semantic_losses(
    side: str, losses: dict[str, Tensor], commitment: float, entropy: float
) -> dict[str, Tensor]:
    """The losses of an autoencoder under their names and with their weights."""
    weights = {"commitment": commitment, "entropy": entropy}
    return {f"{side}/{name}": weights.get(name, 1.0) * loss for name, loss in losses.items()}
