"""Embeddings of the typed fields of users, items and context; all of one width.

Shape letters: B rows, A categories, N numbers, S sequences of K values, E widths of dense vectors,
F fields, D embedding width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

INIT_STD = 0.05


def embedding_table(rows: int, dim: int) -> nn.Embedding:
    """(rows, dim) table with small random values."""
    table = nn.Embedding(rows, dim)
    nn.init.normal_(table.weight, std=INIT_STD)
    return table


class CategoryEmbedding(nn.Module):
    """All categories of a side in one table, so that one lookup serves them all."""

    offset_A: Tensor

    def __init__(self, num_rows: Sequence[int], dim: int) -> None:
        """Make a table with `num_rows[a]` rows for each field; row 0 of each is missing."""
        super().__init__()
        offsets = torch.tensor([0, *num_rows]).cumsum(0)
        self.register_buffer("offset_A", offsets[:-1], persistent=False)
        self.table = embedding_table(int(offsets[-1]), dim)

    def forward(self, rows_BA: Tensor) -> Tensor:
        """(B, A, D)."""
        embedded_BAD: Tensor = self.table(rows_BA + self.offset_A)
        return embedded_BAD


class NumberEmbedding(nn.Module):
    """x w + b for a number x; a learned vector where it is missing."""

    def __init__(self, num_fields: int, dim: int) -> None:
        """Make w, b and the vector of missing numbers for each field."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_fields, dim) * INIT_STD)
        self.bias = nn.Parameter(torch.randn(num_fields, dim) * INIT_STD)
        self.missing = nn.Parameter(torch.randn(num_fields, dim) * INIT_STD)

    def forward(self, numbers_BN: Tensor) -> Tensor:
        """(B, N, D); NaN = missing."""
        missing_BN1 = numbers_BN.isnan()[..., None]
        known_BN1 = known(numbers_BN)[..., None]
        return torch.where(missing_BN1, self.missing, known_BN1 * self.weight + self.bias)


class SequenceEmbedding(nn.Module):
    """Mean of the embeddings of a field's values; zero where there is none."""

    offset_S1: Tensor

    def __init__(self, num_rows: Sequence[int], dim: int) -> None:
        """Make a table with `num_rows[s]` rows for each field; row 0 of each is unknown."""
        super().__init__()
        offsets = torch.tensor([0, *num_rows]).cumsum(0)
        self.register_buffer("offset_S1", offsets[:-1, None], persistent=False)
        self.table = embedding_table(int(offsets[-1]), dim)

    def forward(self, rows_BSK: Tensor) -> Tensor:
        """(B, S, D) from 1 + row, 0 where there is no value."""
        real_BSK = rows_BSK > 0
        values_BSKD = self.table((rows_BSK - 1).clamp(min=0) + self.offset_S1)
        summed_BSD = (values_BSKD * real_BSK[..., None]).sum(-2)
        mean_BSD: Tensor = summed_BSD / real_BSK.sum(-1, keepdim=True).clamp(min=1)
        return mean_BSD


class DenseEmbedding(nn.Module):
    """A linear map to D for each frozen vector."""

    def __init__(self, dims: Sequence[int], dim: int) -> None:
        """Make a projection for each width."""
        super().__init__()
        self.dims = tuple(dims)
        self.maps = nn.ModuleList(nn.Linear(width, dim) for width in dims)

    def forward(self, vectors_BE: Tensor) -> Tensor:
        """(B, fields, D)."""
        parts = vectors_BE.split(self.dims, dim=-1)
        return torch.stack([m(part) for m, part in zip(self.maps, parts, strict=True)], dim=-2)


def known(numbers_BN: Tensor) -> Tensor:
    """Numbers with 0, the mean, where they are missing."""
    return torch.where(numbers_BN.isnan(), 0.0, numbers_BN)
