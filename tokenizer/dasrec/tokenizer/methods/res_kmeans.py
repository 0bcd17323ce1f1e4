"""QARM's residual k-means (arXiv 2411.11739; V2: 2602.08559; das-method 5.3).

    C^l = kmeans(R^l, K);   c^l = argmin_k ||r^l - C^l_k||;   R^(l+1) = R^l - C^l_c

on content, or on a projection of it that was aligned with clicks first. No encoder, no decoder.
"""

import math
from collections.abc import Iterator
from typing import Literal, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor, nn

from dasrec.core import StageConfig
from dasrec.tokenizer.additive import Additive, Fit, census, fit_levels
from dasrec.tokenizer.balanced_kmeans import balanced_centroids
from dasrec.tokenizer.clicks import Clicks
from dasrec.tokenizer.config import (
    Count,
    Levels,
    Modalities,
    Positive,
    Size,
    Weight,
    check_levels,
)
from dasrec.tokenizer.fsq import Fsq
from dasrec.tokenizer.kmeans import kmeans
from dasrec.tokenizer.objective import Data, Objective, Phase, Sides, Sizes, Step
from dasrec.tokenizer.pairs import PairSampler
from dasrec.tokenizer.projector import Projector

WINDOW, DAMPING = 10, 0.5  # of the co-occurring items, as in DAS's alignment


class ResKmeansConfig(StageConfig):
    """Residual k-means on content embeddings."""

    method: Literal["res_kmeans"] = "res_kmeans"
    """This method."""
    modalities: Modalities = None
    """Item modalities (names in the embeddings) to tokenize, side by side; null: the first one."""
    level_sizes: Levels = (256, 256, 256)
    """Codebook size of each level."""
    last: Literal["kmeans", "balanced", "fsq"] = "kmeans"
    """The last level: k-means; k-means with clusters of equal size; or grid codes (QARM V2), which
    collide less."""
    fsq_levels: tuple[Size, ...] = (4, 4, 4, 4)
    """For `fsq`: grid values along each principal axis of the last residuals; their product is the
    last level's size."""
    align_epochs: Count = 0
    """Epochs of a contrastive projection of the content, trained on clicks first; 0: none."""
    batch_size: Size = 1024
    """Click pairs per step of the projection's training."""
    learning_rate: Positive = 1e-3
    """Peak AdamW step of the projection; falls to 0 along a cosine."""
    weight_decay: Weight = 1e-4
    """AdamW decay of the projection."""

    @property
    def id_learning_rate(self) -> float:
        """There are no ID embeddings."""
        return self.learning_rate

    @property
    def restart_until(self) -> float:
        """No codebook is trained by steps."""
        return 0.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_levels(self.level_sizes)
        if self.last != "fsq":
            return self
        if min(self.fsq_levels, default=0) < 2:
            raise ValueError(f"fsq_levels: expected values of at least 2, got {self.fsq_levels}")
        if math.prod(self.fsq_levels) != self.level_sizes[-1]:
            raise ValueError(
                f"fsq_levels: their product must be the last of level_sizes "
                f"({self.level_sizes[-1]}), got {math.prod(self.fsq_levels)}"
            )
        return self


class GridAdditive(Additive):
    """The last level's codes are found by rounding."""

    def __init__(
        self, config: ResKmeansConfig, widths: tuple[int, ...], front: nn.Sequential | None
    ) -> None:
        super().__init__(config.level_sizes, widths, front)
        if len(config.fsq_levels) > self.width:
            raise ValueError(
                f"tokenizer.fsq_levels: at most as many as the content has dimensions "
                f"({self.width}), got {len(config.fsq_levels)}"
            )
        self.fsq = Fsq(config.fsq_levels, self.width)

    def codes(self, x_NX: Tensor, h_ND: Tensor) -> Tensor:
        """(N, L)."""
        codes_NL = super().codes(x_NX, h_ND)
        codes_NL[:, -1] = self.fsq.codes(self.stand_for(codes_NL, h_ND).residual_ND)
        return codes_NL


def res_kmeans_sides(config: ResKmeansConfig, sizes: Sizes) -> Sides:
    """Items only."""
    widths = sizes.item_widths
    front = Projector(widths, sizes.users).items if config.align_epochs else None
    if config.last == "fsq":
        return Sides(GridAdditive(config, widths, front))
    return Sides(Additive(config.level_sizes, widths, front))


class ResKmeans(Objective):
    """Perhaps a projection, then k-means level by level."""

    def __init__(self, config: ResKmeansConfig, sides: Sides, data: Data) -> None:
        super().__init__(sides, data)
        self.config = config
        self.projector = None
        if config.align_epochs:
            self.sampler = PairSampler(data.corpus, WINDOW, DAMPING)
            self.projector = Projector(data.sizes.item_widths, data.sizes.users)
            sides.items.front = self.projector.items

    @property
    def phases(self) -> list[Phase]:
        """The projection's, or none."""
        epochs = self.config.align_epochs
        return [Phase("align", epochs, None)] if epochs else []

    def num_steps(self, phase: str) -> int:
        """Batches of an epoch."""
        return self.sampler.num_batches(self.config.batch_size)

    def batches(self, phase: str, rng: np.random.Generator) -> Iterator[Clicks]:
        """Click pairs."""
        sampler = self.sampler
        for batch in sampler.batches(sampler.epoch(rng), self.config.batch_size, rng):
            yield Clicks.of(batch, self.data.items_IX.device)

    def losses(self, batch: Clicks, step: Step) -> dict[str, Tensor]:
        """The projection's."""
        assert self.projector is not None
        x_items, x_users = self.data.items_IX[batch.items], self.data.users_UX[batch.users]
        losses: dict[str, Tensor] = self.projector(x_items, x_users, batch)
        return losses

    @torch.no_grad()
    def finish(self, seed: int) -> dict[str, float]:
        """Set the codewords."""
        side, x_IX = self.sides.items, self.data.items_IX
        fits: list[Fit] = [kmeans] * (len(self.config.level_sizes) - 1)
        if self.config.last == "kmeans":
            fits.append(kmeans)
        elif self.config.last == "balanced":
            fits.append(balanced_centroids)
        residual_ND = fit_levels(side, x_IX, fits, seed)
        if self.config.last == "fsq":
            side.words[-1].copy_(side.fsq.fit(residual_ND))
        return census(side.quantize(x_IX).codes_NL, side.codebooks)
