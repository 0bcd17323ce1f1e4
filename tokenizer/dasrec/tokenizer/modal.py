"""Encoders and decoders that keep the modalities of an item apart.

Shape letters: B batch, X width of all modalities side by side, D code dimension.
"""

import torch
from torch import Tensor, nn

from dasrec.tokenizer.autoencoder import mlp
from dasrec.tokenizer.objective import Sizes


class ModalEncoders(nn.Module):
    """An MLP for each modality; their outputs, side by side, are projected to the code dimension.

    With one modality this is the MLP of the usual RQ-VAE.
    """

    def __init__(self, widths: tuple[int, ...], hidden: tuple[int, ...], code_dim: int) -> None:
        super().__init__()
        self.widths = widths
        self.parts = nn.ModuleList(mlp(width, *hidden) for width in widths)
        self.activation = nn.ReLU() if hidden else nn.Identity()  # none yet: the raw input
        joint = sum(hidden[-1] if hidden else width for width in widths)
        self.project = mlp(joint, code_dim)

    def forward(self, x_BX: Tensor) -> Tensor:
        """(B, D)."""
        blocks = torch.split(x_BX, list(self.widths), 1)
        encoded = [part(block) for part, block in zip(self.parts, blocks, strict=True)]
        projected: Tensor = self.project(self.activation(torch.cat(encoded, 1)))
        return projected


class ModalDecoders(nn.Module):
    """An MLP from the code dimension for each modality; (B, X) is their outputs side by side."""

    def __init__(self, widths: tuple[int, ...], hidden: tuple[int, ...], code_dim: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(mlp(code_dim, *reversed(hidden), width) for width in widths)

    def forward(self, z_BD: Tensor) -> Tensor:
        """(B, X)."""
        return torch.cat([part(z_BD) for part in self.parts], 1)


def check_several(method: str, sizes: Sizes) -> None:
    """Refuse a single modality.

    Raises:
        ValueError: fewer than two item modalities are tokenized.
    """
    if len(sizes.items) < 2:
        raise ValueError(
            f"tokenizer.modalities: the method '{method}' needs at least two item modalities, got "
            f"only '{next(iter(sizes.items))}'; add one to embed.more and name all of them here"
        )
