"""Running only some of the beams through the model, in a rectangle of rows.

Shape letters: B users, W beams, P beams one step before, F beams run, S values of any kind a beam,
X the width of `LevelHead.states`.
"""

import torch
from torch import Tensor


def first_live(live_BW: Tensor) -> Tensor:
    """(B, F) indices of the live beams first, F the most of any user; others fill up."""
    count = int(live_BW.sum(1).max())
    return (~live_BW).to(torch.uint8).argsort(dim=1, stable=True)[:, :count]


def take(values_BPS: Tensor, index_BF: Tensor) -> Tensor:
    """(B, F, S) rows of each user."""
    return values_BPS.gather(1, index_BF.unsqueeze(-1).expand(-1, -1, values_BPS.shape[-1]))


def spread(states_BFX: Tensor, row_BF: Tensor, width: int) -> Tensor:
    """(B, W, X) states put at their beams, zero elsewhere."""
    batch, _, size = states_BFX.shape
    index_BFX = row_BF.unsqueeze(-1).expand(-1, -1, size)
    return states_BFX.new_zeros(batch, width, size).scatter_(1, index_BFX, states_BFX)
