"""PLUM's tokenizer, "SIDv2" (arXiv 2510.07784; das-method 5.5).

Several content encoders are fused, codebooks shrink from level to level, training keeps a random
prefix of the levels, and items that are watched together are drawn together.

Shape letters: B rows of a step, P pairs, R = 2P rows of pairs, W width of the contrastive head.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dasrec.tokenizer.alignment import cosine_scores
from dasrec.tokenizer.autoencoder import Autoencoder, mlp
from dasrec.tokenizer.config import AutoencoderConfig, Levels, Positive, Size, Weight
from dasrec.tokenizer.modal import ModalDecoders, ModalEncoders
from dasrec.tokenizer.objective import Data, Objective, Sides, Sizes, Step, semantic_losses
from dasrec.tokenizer.pairs import Int64s, PairSampler, plain_batches
from dasrec.tokenizer.quantizer import ResidualQuantizer

HEAD = (128, 64)  # hidden and output width of the contrastive head


class PlumConfig(AutoencoderConfig):
    """SIDv2: fused modalities, multi-resolution codebooks, progressive masking, co-occurrence."""

    method: Literal["plum"] = "plum"
    """This method."""
    level_sizes: Levels = (1024, 512, 256, 128)
    """Multi-resolution: K_l = K_1 / 2^(l-1) (PLUM: K_1 = 2048)."""
    masking: bool = True
    """Progressive masking: z of each row is the sum of its first r ~ U{1..L} codewords."""
    cooccur: Weight = 1.0
    """Weight of the contrastive loss between items that one user clicked."""
    tau: Positive = 0.1
    """Its temperature (cosine scores; not published)."""
    window: Size = 10
    """A co-occurring item lies within this many positions in the user's training sequence."""
    epochs: Size = 200
    """Passes over the items."""


class PlumBatch(NamedTuple):
    """Rows of a step. The first 2P are pairs: row i < P has its partner at P + i."""

    item_B: Tensor
    keep_B: Tensor | None
    """Levels that count in z; None: all."""
    num_pairs: int


def plum_sides(config: PlumConfig, sizes: Sizes) -> Sides:
    """Items only: an encoder and a decoder for each modality round one quantizer."""
    shape = (sizes.item_widths, config.hidden, config.code_dim)
    quantizer = ResidualQuantizer(config)
    return Sides(
        Autoencoder(ModalEncoders(*shape), quantizer, ModalDecoders(*shape), sizes.item_widths)
    )


class Plum(Objective):
    """L = mean_m ||x_m - x^_m||^2 + L_quantizer + cooccur * L_pairs.

    A step has `batch_size` items, each item once per epoch, and a partner for each that has one.
    Items that nobody clicked are reconstructed like all others.
    """

    def __init__(self, config: PlumConfig, sides: Sides, data: Data) -> None:
        super().__init__(sides, data)
        self.config = config
        self.sampler = self.head = None
        if config.cooccur > 0:
            self.sampler = PairSampler(data.corpus, config.window, damping=0.0)
            self.head = mlp(config.code_dim, *HEAD)

    def batches(self, phase: str, rng: np.random.Generator) -> Iterator[PlumBatch]:
        """Items, their partners and how many levels each row keeps."""
        num_items, device = len(self.data.items_IX), self.data.items_IX.device
        partner_I = np.full(num_items, -1)
        if self.sampler is not None:
            partner_I = draw_partners(self.sampler, num_items, rng)
        for _, items in plain_batches(0, num_items, self.config.batch_size, rng):
            partner = partner_I[items]
            paired = partner >= 0
            rows = np.concatenate([items[paired], partner[paired], items[~paired]])
            keep = None
            if self.config.masking:
                drawn = rng.integers(1, len(self.config.level_sizes) + 1, size=len(rows))
                keep = torch.from_numpy(drawn).to(device)
            yield PlumBatch(torch.from_numpy(rows).to(device), keep, int(paired.sum()))

    def losses(self, batch: PlumBatch, step: Step) -> dict[str, Tensor]:
        """The RQ-VAE's, and that of the pairs."""
        config, item_B = self.config, batch.item_B
        x_BX = self.data.items_IX[item_B]
        z_BD, losses = self.sides.items(x_BX, quantize=step.quantize, keep_B=batch.keep_B)
        losses = semantic_losses("item", losses, config.commitment, config.entropy)
        if self.head is not None:
            rows = 2 * batch.num_pairs
            nce = pairs_nce(self.head(z_BD[:rows]), item_B[:rows], config.tau)
            losses["align/cooccur_item"] = config.cooccur * nce
        return losses


def draw_partners(sampler: PairSampler, num_items: int, rng: np.random.Generator) -> Int64s:
    """For each item one that a user clicked near it, (I,); -1: nobody did."""
    pairs = sampler.epoch(rng)
    rows = rng.permutation(np.flatnonzero(pairs.partner_item_N >= 0))
    partner_I = np.full(num_items, -1, np.int64)
    partner_I[pairs.item_N[rows]] = pairs.partner_item_N[rows]  # of several, the last one stays
    return partner_I


def pairs_nce(p_RW: Tensor, item_R: Tensor, tau: float) -> Tensor:
    """-1/R sum_i log( exp(cos(p_i, p_i+) / tau) / sum_{j != i} exp(cos(p_i, p_j) / tau) ).

    Symmetric: partners are anchors too. Left out as negatives beside j = i: further rows of i's
    own item and of its partner's.

    Args:
        p_RW: output of the head; row i and row i + R/2 are partners.
        item_R: item of each row.
        tau: temperature.
    """
    rows = len(p_RW)
    if rows == 0:
        return p_RW.new_zeros(())
    at_R = torch.arange(rows, device=p_RW.device)
    positive_R = (at_R + rows // 2) % rows
    excluded_RR = item_R[:, None] == item_R
    excluded_RR |= item_R[positive_R][:, None] == item_R
    excluded_RR[at_R, positive_R] = False
    scores_RR = cosine_scores(p_RW, p_RW, 1 / tau).masked_fill(excluded_RR, -torch.inf)
    return F.cross_entropy(scores_RR, positive_R)
