"""LETTER: an RQ-VAE with collaborative and diversity regularisation (arXiv 2405.07314).

    L = L_Sem + alpha L_CF + beta L_Div                                       (das-method 5.2)

Published code takes means over dimensions and levels where the methods here take sums, and raw dot
products with SASRec's vectors. On this scale its alpha of 0.02 changes nothing (Amazon Beauty, L_CF
stays at log of the batch size); see the defaults of `alpha` and `tau`.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from dasrec.tokenizer.autoencoder import rq_vae
from dasrec.tokenizer.config import AutoencoderConfig, Levels, Positive, Size, Weight
from dasrec.tokenizer.diversity import DiverseQuantizer
from dasrec.tokenizer.objective import Data, Objective, Sides, Sizes, Step, semantic_losses


class LetterConfig(AutoencoderConfig):
    """RQ-VAE whose z predicts its item among a batch's frozen collaborative vectors."""

    method: Literal["letter"] = "letter"
    """This method."""
    level_sizes: Levels = (256, 256, 256, 256)
    """As published."""
    sinkhorn: Literal["none", "last", "all"] = "last"
    """As published: training assignments of the last level are balanced."""
    epochs: Size = 200
    """Passes over the items."""
    cf: str = "cf"
    """Item modality of the embeddings that holds the collaborative vectors: of the encoder
    `cooccurrence`, or SASRec's item vectors from a file (as published)."""
    tau: Positive = 0.1
    """Temperature of the collaborative loss (dot products). Published: 1, for SASRec's vectors;
    those of `cooccurrence` have unit length."""
    alpha: Weight = 0.5
    """Weight of the collaborative loss (published: 0.02, on another scale)."""
    beta: Weight = 1e-4
    """Weight of the diversity loss. k-means starts and restarts keep codewords in even use here as
    it is: felt from about 0.1 on."""
    groups: Annotated[int, Field(ge=1)] = 10
    """Clusters of a level's codewords in the diversity loss."""

    @model_validator(mode="after")
    def _check_diversity(self) -> Self:
        if min(self.level_sizes) < 2 * self.groups:
            raise ValueError(
                f"groups: a level needs at least 2 codewords for each of the {self.groups} groups, "
                f"got {min(self.level_sizes)}; set fewer groups"
            )
        if self.codebook_update == "ema" and self.beta > 0:
            raise ValueError(
                "beta must be 0 with codebook_update 'ema': moving averages alone move the "
                f"codewords, got {self.beta}"
            )
        return self


def letter_sides(config: LetterConfig, sizes: Sizes) -> Sides:
    """Items only."""
    side = rq_vae(config, sizes.item_widths)
    side.quantizer = DiverseQuantizer(config)
    return Sides(side)


class Letter(Objective):
    """The RQ-VAE and its two regularisers. Collaborative vectors are never trained here."""

    cf_IC: Tensor

    def __init__(self, config: LetterConfig, sides: Sides, data: Data) -> None:
        super().__init__(sides, data)
        if config.cf not in data.modalities:
            raise ValueError(
                f"tokenizer.cf: the embeddings have no item modality '{config.cf}' "
                f"({', '.join(data.modalities)}); add embed.more.{config.cf} with the encoder "
                "'cooccurrence' or a file of item vectors"
            )
        self.config = config
        vectors = torch.from_numpy(np.array(data.modalities[config.cf], np.float32))
        self.register_buffer("cf_IC", vectors, persistent=False)
        width = vectors.shape[1]
        same = width == config.code_dim
        self.to_cf = nn.Identity() if same else nn.Linear(config.code_dim, width, bias=False)

    def batches(self, phase: str, rng: np.random.Generator) -> Iterator[tuple[Tensor, ...]]:
        """Rows of items; the codewords are clustered anew."""
        self.sides.items.quantizer.regroup(self.config.groups, rng.integers(2**31).item())
        return self.content_batches(self.config.batch_size, rng)

    def losses(self, batch: tuple[Tensor, ...], step: Step) -> dict[str, Tensor]:
        """L_Sem, alpha L_CF and beta L_Div."""
        items, config = batch[0], self.config
        z_BD, losses = self.sides.items(self.data.items_IX[items], quantize=step.quantize)
        losses = semantic_losses("item", losses, config.commitment, config.entropy)
        if "item/diversity" in losses:
            losses["item/diversity"] = config.beta * losses["item/diversity"]
        if config.alpha > 0:
            loss = collaborative(self.to_cf(z_BD), self.cf_IC[items], config.tau)
            losses["item/collaborative"] = config.alpha * loss
        return losses


def collaborative(z_BC: Tensor, cf_BC: Tensor, tau: float) -> Tensor:
    """mean_n -log softmax_m( <z_n, h_m> / tau )[n] over the batch's items that have interactions.

    Items without any have a zero vector: nothing is to be learned from it.
    """
    known = cf_BC.any(1)
    if not known.any():
        return z_BC.sum() * 0.0
    scores_NN = z_BC[known] @ cf_BC[known].T / tau
    return F.cross_entropy(scores_NN, torch.arange(len(scores_NN), device=scores_NN.device))
