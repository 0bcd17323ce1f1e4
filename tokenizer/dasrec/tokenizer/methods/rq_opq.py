"""RQ-OPQ: shrinking residual levels, then a product quantizer (COINS, arXiv 2510.12604;
OneSearch, arXiv 2509.03236; das-method 5.4).

The residual levels name what items have in common, the last of them by balanced k-means; the
product codes name what tells an item from its neighbours. In z they add up like any other level.
"""

from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator

from dasrec.core import StageConfig, derive_seed
from dasrec.tokenizer.additive import Additive, ClosedForm, fit_levels
from dasrec.tokenizer.balanced_kmeans import balanced_centroids
from dasrec.tokenizer.config import Levels, Modalities, Size, check_levels
from dasrec.tokenizer.kmeans import kmeans
from dasrec.tokenizer.objective import Data, Sides, Sizes
from dasrec.tokenizer.opq import opq_codewords


class RqOpqConfig(StageConfig):
    """Residual k-means and OPQ on content embeddings."""

    method: Literal["rq_opq"] = "rq_opq"
    """This method."""
    modalities: Modalities = None
    """Item modalities (names in the embeddings) to tokenize, side by side; null: the first one."""
    rq_sizes: Levels = (256, 128, 64)
    """Codebook size of each residual level (OneSearch: 4096, 1024, 512)."""
    opq_codes: Size = 2
    """Product codes after them."""
    opq_bits: Annotated[int, Field(ge=1, le=16)] = 8
    """log2 of the codebook size of a product code."""

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Codebook sizes of all levels."""
        return (*self.rq_sizes, *[2**self.opq_bits] * self.opq_codes)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_levels(self.rq_sizes)
        return self


def rq_opq_sides(config: RqOpqConfig, sizes: Sizes) -> Sides:
    """Items only."""
    width = sum(sizes.item_widths)
    if config.opq_codes > width:
        raise ValueError(
            f"tokenizer.opq_codes: at most as many as the content has dimensions ({width}), got "
            f"{config.opq_codes}"
        )
    return Sides(Additive(config.level_sizes, sizes.item_widths))


class RqOpq(ClosedForm):
    """k-means level by level, then OPQ of what is left."""

    def __init__(self, config: RqOpqConfig, sides: Sides, data: Data) -> None:
        super().__init__(sides, data)
        self.config = config

    def fit(self, seed: int) -> None:
        """Set the codewords."""
        side, levels = self.sides.items, len(self.config.rq_sizes)
        fits = [kmeans] * (levels - 1) + [balanced_centroids]
        residual_ND = fit_levels(side, self.data.items_IX, fits, seed).cpu().numpy()
        parts, bits = self.config.opq_codes, self.config.opq_bits
        found = opq_codewords(residual_ND, parts, bits, derive_seed(seed, "opq"))
        for words_KD, found_KD in zip(side.words[levels:], found, strict=True):
            words_KD.copy_(torch.from_numpy(found_KD))
