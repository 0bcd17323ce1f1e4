"""One side of UISM: encoder -> residual quantizer -> decoder (das-method 1.1).

Shape letters: B batch, X input width, D code dimension.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dasrec.tokenizer.quantizer import ResidualQuantizer


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


class Autoencoder(nn.Module):
    """RQ-VAE over L2-normalised semantic embeddings."""

    def __init__(
        self, input_dim: int, hidden: tuple[int, ...], level_sizes: tuple[int, ...], code_dim: int
    ) -> None:
        super().__init__()
        self.encoder = mlp(input_dim, *hidden, code_dim)
        self.quantizer = ResidualQuantizer(level_sizes, code_dim)
        self.decoder = mlp(code_dim, *reversed(hidden), input_dim)

    def forward(
        self, x_BX: Tensor, *, quantize: bool, with_entropy: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Straight-through z (B, D), or h where `quantize` is false, and the losses by name.

        recon = mean_B ||x - Dec(h + sg[z - h])||^2, summed over the X dimensions: for unit
        vectors 1 is no better than predicting 0.
        """
        x_BX = F.normalize(x_BX)
        h_BD = self.encoder(x_BX)
        losses = {}
        z_BD = h_BD
        if quantize:
            _, z_BD, losses["codebook"], losses["commitment"], entropy = self.quantizer(
                h_BD, with_entropy
            )
            if with_entropy:
                losses["entropy"] = entropy
        losses["recon"] = (x_BX - self.decoder(z_BD)).square().sum(1).mean()
        return z_BD, losses

    @torch.no_grad()
    def encode(self, x_NX: Tensor, batch_size: int = 8192) -> Tensor:
        """Encoder output h (N, D), in batches."""
        return torch.cat([self.encoder(F.normalize(x)) for x in torch.split(x_NX, batch_size)])
