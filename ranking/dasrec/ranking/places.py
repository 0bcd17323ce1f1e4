"""The histories of a batch, put one after the other without padding.

Histories differ much in length (most are short, the longest sets the padded width), so whatever is
computed for every element is computed for the real ones only.

Shape letters: B batch, T padded length, P elements of all histories, X any width.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Places(NamedTuple):
    """Where the P elements belong. They come row by row, oldest first."""

    row_P: Tensor
    """(P,) row of the batch."""
    ago_P: Tensor
    """(P,) 0 for the row's latest event, 1 for the one before, ..."""
    real_BT: Tensor
    """(B, T) False at padding."""
    padded: bool
    """Padding is among the elements: P = B T."""

    def sum(self, values_PX: Tensor) -> Tensor:
        """(B, X) sum over the real elements of each row."""
        if self.padded:
            values_BTX: Tensor = values_PX.unflatten(0, self.real_BT.shape)
            return (values_BTX * self.real_BT[:, :, None]).sum(1)
        summed_BX = values_PX.new_zeros(self.real_BT.shape[0], values_PX.shape[1])
        return summed_BX.index_add(0, self.row_P, values_PX)


def lay_out(history_BT: Tensor, *, padded: bool) -> tuple[Tensor, Places]:
    """Put the histories one after the other.

    Args:
        history_BT: (B, T) latest last, 0 at padding.
        padded: keep the padding, so that the shapes do not depend on the values (to export).

    Returns:
        (P,) elements of `history_BT`, and where they belong.
    """
    real_BT = history_BT > 0
    if padded:
        # not len(): an exported graph would hold it as a constant
        row_B = torch.arange(history_BT.shape[0], device=history_BT.device)
        ago_T = torch.arange(history_BT.shape[1] - 1, -1, -1, device=history_BT.device)
        row_BT, ago_BT = torch.broadcast_tensors(row_B[:, None], ago_T)
        places = Places(row_BT.flatten(), ago_BT.flatten(), real_BT, padded=True)
        return history_BT.flatten(), places
    row_P, column_P = real_BT.nonzero(as_tuple=True)
    places = Places(row_P, history_BT.shape[1] - 1 - column_P, real_BT, padded=False)
    return history_BT[row_P, column_P], places
