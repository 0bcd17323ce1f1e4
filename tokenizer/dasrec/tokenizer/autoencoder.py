"""One side of UISM: encoder -> residual quantizer -> decoder (das-method 1.1).

Shape letters: B batch, N rows, X input width, D code dimension.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dasrec.core.processes import share, weight
from dasrec.tokenizer.config import AutoencoderConfig
from dasrec.tokenizer.parallel import gather
from dasrec.tokenizer.quantizer import Encoded, ResidualQuantizer

ROWS = 4096  # rows at a time outside training; what they make still fits a CPU's cache


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them, He-initialised.

    torch's default shrinks its input at every layer; an autoencoder of unit vectors would then
    spend its first hundreds of steps on finding the latent space's scale.
    """
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        linear = nn.Linear(width_in, width_out)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def unit(x_BX: Tensor, widths: tuple[int, ...]) -> Tensor:
    """Rows of unit length to which every modality contributes the same share."""
    if len(widths) == 1:
        return F.normalize(x_BX)
    blocks = [F.normalize(block) for block in torch.split(x_BX, list(widths), 1)]
    return torch.cat(blocks, 1) / math.sqrt(len(widths))


class Autoencoder(nn.Module):
    """RQ-VAE over L2-normalised semantic embeddings."""

    def __init__(
        self,
        encoder: nn.Module,
        quantizer: ResidualQuantizer,
        decoder: nn.Module,
        widths: tuple[int, ...],
        front: nn.Module | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            encoder: (B, X) -> (B, D), or from the width of `front`'s output.
            quantizer: of width D.
            decoder: (B, D) -> what the encoder was given.
            widths: of the modalities that stand side by side in x.
            front: trained before and frozen: the autoencoder sees unit(front(x)) in place of x.
        """
        super().__init__()
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder
        self.widths, self.front = widths, front

    def forward(
        self,
        x_BX: Tensor,
        *,
        quantize: bool,
        decoded: int | None = None,
        keep_B: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Straight-through z (B, D), or h where `quantize` is false, and the losses by name.

        recon = mean_B ||x - Dec(h + sg[z - h])||^2, summed over the X dimensions: for unit
        vectors 1 is no better than predicting 0.

        Args:
            x_BX: embeddings.
            quantize: whether the codebooks are used.
            decoded: only so many first rows are decoded and count in recon; None = all.
            keep_B: see `ResidualQuantizer.forward`.
        """
        h_BD = gather(self.encoder(self.target(share(x_BX))), len(x_BX))
        z_BD, losses = h_BD, {}
        if quantize:
            _, z_BD, losses = self.quantizer(h_BD, keep_B)
        rows = len(x_BX) if decoded is None else decoded
        error = self.target(share(x_BX[:rows])) - self.decoder(share(z_BD[:rows]))
        return z_BD, losses | {"recon": error.square().sum() * weight(rows)}

    def target(self, x_BX: Tensor) -> Tensor:
        """What is encoded and reconstructed."""
        if self.front is None:
            return unit(x_BX, self.widths)
        with torch.no_grad():
            return F.normalize(self.front(unit(x_BX, self.widths)))

    @torch.no_grad()
    def encode(self, x_NX: Tensor) -> Tensor:
        """Encoder output h (N, D), in batches."""
        return torch.cat([self.encoder(self.target(x)) for x in torch.split(x_NX, ROWS)])

    @torch.no_grad()
    def quantize(self, x_NX: Tensor) -> Encoded:
        """Codes and what they stand for, in batches."""
        parts = []
        for x in torch.split(x_NX, ROWS):
            h = self.encode(x)
            codes, z, residuals = self.quantizer.encode(h)
            parts.append(Encoded(codes, z, residuals[-1], h))
        return Encoded(*(torch.cat(column) for column in zip(*parts, strict=True)))

    @property
    def codebooks(self) -> list[Tensor]:
        """(K, D) of each level."""
        return [book.detach() for book in self.quantizer.codebooks]

    @torch.no_grad()
    def reconstruction_error(self, x_NX: Tensor, z_ND: Tensor) -> float:
        """Mean of ||x - Dec(z)||^2 for unit x."""
        pairs = zip(torch.split(x_NX, ROWS), torch.split(z_ND, ROWS), strict=True)
        total = sum(
            (self.target(x) - self.decoder(z)).square().sum(dtype=torch.float64) for x, z in pairs
        )
        return float(total) / len(x_NX)


def rq_vae(
    config: AutoencoderConfig, widths: tuple[int, ...], front: nn.Sequential | None = None
) -> Autoencoder:
    """The usual one: MLP encoder, its mirror as decoder."""
    width = sum(widths)
    if front is not None:
        last = front[-1]
        assert isinstance(last, nn.Linear)
        width = last.out_features
    encoder = mlp(width, *config.hidden, config.code_dim)
    decoder = mlp(config.code_dim, *reversed(config.hidden), width)
    return Autoencoder(encoder, ResidualQuantizer(config), decoder, widths, front)
