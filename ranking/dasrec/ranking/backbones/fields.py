"""What every backbone is given: embedded fields of one width, the history among the user's.

Shape letters: B batch, N fields, U/I/X fields of user (with context and history), item, crosses,
D width of a field, F width of everything side by side.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dasrec.ranking.inputs import Inputs


class FieldSizes(NamedTuple):
    """How many fields there are of each kind."""

    user: int
    """U, the pooled history included."""
    item: int
    """I"""
    cross: int
    """X"""
    dense: int
    """Plain numbers beside the fields."""
    dim: int
    """D"""

    @property
    def fields(self) -> int:
        """N = U + I + X."""
        return self.user + self.item + self.cross

    @property
    def width(self) -> int:
        """F = N D + dense."""
        return self.fields * self.dim + self.dense


def fields(inputs: Inputs) -> Tensor:
    """(B, N, D) all embedded fields."""
    return torch.cat([inputs.user_BUD, inputs.item_BID, inputs.cross_BXD], dim=1)


def flat(inputs: Inputs) -> Tensor:
    """(B, F) everything side by side."""
    parts = (inputs.user_BUD, inputs.item_BID, inputs.cross_BXD, inputs.dense_BN)
    return torch.cat([part.flatten(1) for part in parts], dim=1)
