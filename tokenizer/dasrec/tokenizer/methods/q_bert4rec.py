"""Q-BERT4Rec's tokenizer: modalities fused by gated attention, then an RQ-VAE (arXiv 2512.02474).

das-method 5.7; see `Injection` for what differs with pooled embeddings. No code is published.
"""

from typing import Literal

import torch
from torch import Tensor

from dasrec.tokenizer.autoencoder import Autoencoder, mlp
from dasrec.tokenizer.config import AutoencoderConfig, Levels, Positive, Size, Weight
from dasrec.tokenizer.fusion import FusedEncoder, Injection, multi_view
from dasrec.tokenizer.modal import ModalDecoders, check_several
from dasrec.tokenizer.objective import Data, Objective, Sides, Sizes, Step, semantic_losses
from dasrec.tokenizer.quantizer import ResidualQuantizer


class QBert4RecConfig(AutoencoderConfig):
    """Dynamic cross-modal injection before the RQ-VAE; the first of `modalities` asks."""

    method: Literal["q_bert4rec"] = "q_bert4rec"
    """This method."""
    level_sizes: Levels = (256, 256, 256, 256)
    """Four codes, as published."""
    fused_dim: Size = 128
    """Width of the modalities' projections and of the fused vector."""
    layers: Size = 2
    """Layers of injection."""
    contrast: Weight = 0.1
    """Weight of the contrastive loss between projections and fused vector (not published)."""
    tau: Positive = 0.1
    """Its temperature (cosine scores; not published)."""
    epochs: Size = 200
    """Passes over the items."""


def q_bert4rec_sides(config: QBert4RecConfig, sizes: Sizes) -> Sides:
    """Items only.

    Raises:
        ValueError: fewer than two modalities.
    """
    check_several(config.method, sizes)
    injection = Injection(sizes.item_widths, config.fused_dim, config.layers)
    encoder = FusedEncoder(injection, mlp(config.fused_dim, *config.hidden, config.code_dim))
    decoder = ModalDecoders(sizes.item_widths, config.hidden, config.code_dim)
    return Sides(Autoencoder(encoder, ResidualQuantizer(config), decoder, sizes.item_widths))


class QBert4Rec(Objective):
    """L = mean_m ||x_m - x^_m||^2 + L_quantizer + contrast * L_views."""

    def __init__(self, config: QBert4RecConfig, sides: Sides, data: Data) -> None:
        super().__init__(sides, data)
        self.config = config

    def losses(self, batch: tuple[Tensor, ...], step: Step) -> dict[str, Tensor]:
        """The RQ-VAE's, and that of the views."""
        config, side = self.config, self.sides.items
        x_BX = self.data.items_IX[batch[0]]
        _, losses = side(x_BX, quantize=step.quantize)
        losses = semantic_losses("item", losses, config.commitment, config.entropy)
        if config.contrast > 0:
            token_BMW, fused_BW = side.encoder.injection(side.target(x_BX))
            blocks = torch.split(x_BX, list(side.widths), 1)
            present_BM = torch.stack([block.any(1) for block in blocks], 1)
            views = multi_view(token_BMW, fused_BW, present_BM, 1 / config.tau)
            losses["align/views"] = config.contrast * views
        return losses
