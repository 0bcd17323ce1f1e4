"""Several autoencoders, one for each modality, that give out one SID together.

Shape letters: N rows, X width of all modalities side by side, M modalities, L levels of each,
D code dimension of each.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dasrec.tokenizer.autoencoder import Autoencoder
from dasrec.tokenizer.quantizer import Encoded


class JointSide(nn.Module):
    """The modalities' codes interleaved: level 1 of each modality, then level 2 of each, ...

    z is the modalities' z side by side, (N, M D). A codeword stands in its modality's block and is
    0 elsewhere, so z is the sum of M L codewords, and every code is that of the codeword nearest
    to what the codewords before it left over: one residual quantizer with M L levels.
    """

    def __init__(self, parts: list[Autoencoder]) -> None:
        """Join autoencoders of equal depth and code dimension, in the order of the columns of x."""
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.widths = [sum(part.widths) for part in parts]

    def blocks(self, x_NX: Tensor) -> list[tuple[Autoencoder, Tensor]]:
        """Each autoencoder with its columns of x."""
        columns = torch.split(x_NX, self.widths, 1)
        return list(zip(self._parts(), columns, strict=True))

    @torch.no_grad()
    def quantize(self, x_NX: Tensor) -> Encoded:
        """Codes (N, M L) and what they stand for, (N, M D) each."""
        parts = [part.quantize(x) for part, x in self.blocks(x_NX)]
        left = [part.h_ND - part.z_ND for part in parts[:-1]]  # nothing of them is still to come
        return Encoded(
            torch.stack([part.codes_NL for part in parts], 2).flatten(1),
            torch.cat([part.z_ND for part in parts], 1),
            torch.cat([*left, parts[-1].residual_ND], 1),
            torch.cat([part.h_ND for part in parts], 1),
        )

    @property
    def codebooks(self) -> list[Tensor]:
        """(K, M D) of each of the M L levels."""
        books = [part.codebooks for part in self._parts()]
        last, width = len(books) - 1, books[0][0].shape[1]
        return [
            F.pad(own[level], (number * width, (last - number) * width))
            for level in range(len(books[0]))
            for number, own in enumerate(books)
        ]

    def reconstruction_error(self, x_NX: Tensor, z_NZ: Tensor) -> float:
        """Mean over the modalities of their mean ||x - Dec(z)||^2 for unit x."""
        blocks = self.blocks(x_NX)
        z_blocks = z_NZ.chunk(len(blocks), 1)
        errors = [
            part.reconstruction_error(x, z) for (part, x), z in zip(blocks, z_blocks, strict=True)
        ]
        return sum(errors) / len(errors)

    def _parts(self) -> list[Autoencoder]:
        return [part for part in self.parts if isinstance(part, Autoencoder)]
