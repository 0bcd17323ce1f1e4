"""Random codes: the control that shows what SIDs owe to what they mean.

A code is a hash of the content's bits, so that an item that comes later has one too, and nothing
but the hash's few multipliers is kept:

    c = floor(K / 2^32 * (((a_0 + sum_j a_j w_j) mod 2^64) >> 32)),    w_j: 32 bits of x_j

For random a of 64 bits the codes of different rows are uniform and pairwise independent
(multilinear hashing; Lemire & Kaser, The Computer Journal 57(11), 2014). Rows of equal content
share their codes.

Shape letters: N rows, X input width, L levels.
"""

from typing import Literal, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from dasrec.core import StageConfig, generator
from dasrec.tokenizer.additive import Additive, ClosedForm
from dasrec.tokenizer.config import Levels, Modalities, check_levels
from dasrec.tokenizer.objective import Data, Sides, Sizes


class RandomConfig(StageConfig):
    """Uniform codes and codewords of Gaussian noise."""

    method: Literal["random"] = "random"
    """This method."""
    modalities: Modalities = None
    """Item modalities (names in the embeddings) that tell items apart; null: the first one."""
    level_sizes: Levels = (256, 256, 256)
    """Codebook size of each level."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_levels(self.level_sizes)
        return self


class Hashed(Additive):
    """Codes by hash, whatever the codewords."""

    factors_XL: Tensor

    def __init__(self, level_sizes: tuple[int, ...], widths: tuple[int, ...]) -> None:
        super().__init__(level_sizes, widths)
        shape = (1 + sum(widths), len(level_sizes))
        self.register_buffer("factors_XL", torch.zeros(shape, dtype=torch.int64))

    def codes(self, x_NX: Tensor, h_ND: Tensor) -> Tensor:
        """(N, L)."""
        x = np.ascontiguousarray(x_NX.cpu().numpy(), np.float32) + 0.0  # -0 is 0
        bits_NX = x.view(np.uint32).astype(np.uint64)
        factors_XL = self.factors_XL.cpu().numpy().view(np.uint64)
        hash_NL = (factors_XL[0] + bits_NX @ factors_XL[1:]) >> np.uint64(32)
        sizes_L = np.array([len(book) for book in self.codebooks], np.uint64)
        codes_NL = (hash_NL * sizes_L >> np.uint64(32)).astype(np.int64)
        return torch.from_numpy(codes_NL).to(h_ND.device)


def random_sides(config: RandomConfig, sizes: Sizes) -> Sides:
    """Items only."""
    return Sides(Hashed(config.level_sizes, sizes.item_widths))


class Random(ClosedForm):
    """Draws the hash and the codewords."""

    def __init__(self, config: RandomConfig, sides: Sides, data: Data) -> None:
        super().__init__(sides, data)

    def fit(self, seed: int) -> None:
        """The only thing that matters is the seed."""
        side, rng = self.sides.items, generator(seed, "tokenizer", "random")
        shape = tuple(side.factors_XL.shape)
        factors = rng.integers(0, 2**64, shape, np.uint64).view(np.int64)
        side.factors_XL.copy_(torch.from_numpy(factors))
        for words_KD in side.words:
            noise = rng.normal(size=words_KD.shape) / np.sqrt(words_KD.shape[1])
            words_KD.copy_(torch.from_numpy(noise))
