"""What proposed items earn, and their advantage over the group they were proposed in.

Shape letters: B prompts, G items of a group (best first), L levels.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dasrec.core import Manifest
from dasrec.generative.preference.config import RewardWeights

Int64s = npt.NDArray[np.int64]


class RewardScores(NamedTuple):
    """A model that scores proposed items, and where it comes from."""

    manifest: Manifest
    """Of the model; becomes an input of the aligned generator."""
    score: Callable[[Int64s, Int64s], npt.NDArray[np.float32]]
    """(B,) queries (interaction rows of the corpus: the user, and all before it is the history)
    and (B, G) items, -1 where there is none -> (B, G) scores; those of -1 are not read."""


def hit(items_BG: Tensor, target_B: Tensor) -> Tensor:
    """(B, G) 1 for the target."""
    return (items_BG == target_B.unsqueeze(1)).float()


def rank_penalty(items_BG: Tensor, target_B: Tensor) -> Tensor:
    """(B, G) -(1 / log2(rank + 2)) / Z for misses of groups with a hit, Z over all ranks.

    Ranks count from 0; the misses that stand highest cost most (MiniOneRec, 2510.24431).
    """
    hits_BG = hit(items_BG, target_B)
    gain_G = 1 / torch.log2(torch.arange(items_BG.shape[1], device=items_BG.device) + 2.0)
    penalty_BG = -(gain_G / gain_G.sum()) * (1 - hits_BG)
    return penalty_BG * hits_BG.any(1, keepdim=True)


def prefix_match(items_BG: Tensor, target_B: Tensor, code_IL: Tensor) -> Tensor:
    """(B, G) 10^(m - L) where the first m > 0 codes are the target's, else 0."""
    same_BGL = code_IL[items_BG.clamp(min=0)] == code_IL[target_B].unsqueeze(1)
    shared_BG = same_BGL.long().cumprod(-1).sum(-1)
    return torch.where(shared_BG > 0, 10.0 ** (shared_BG - code_IL.shape[1]), 0.0)


def total_reward(
    weights: RewardWeights,
    items_BG: Tensor,
    target_B: Tensor,
    code_IL: Tensor,
    ranker_BG: Tensor | None,
) -> Tensor:
    """(B, G) weighted sum of all rewards; 0 where there is no item (-1)."""
    total = weights.hit * hit(items_BG, target_B)
    total = total + weights.rank * rank_penalty(items_BG, target_B)
    total = total + weights.prefix * prefix_match(items_BG, target_B, code_IL)
    if ranker_BG is not None:
        total = total + weights.ranker * ranker_BG
    return total.masked_fill(items_BG < 0, 0.0)


def group_advantages(reward_BG: Tensor, real_BG: Tensor) -> Tensor:
    """(B, G) (reward - mean) / (sd + 1e-4) within each group, 0 where there is no item.

    The standard deviation is the sample's (n - 1), as in trl (GRPO, 2402.03300, eq. in 4.1.2).
    """
    real = real_BG.float()
    count_B1 = real.sum(1, keepdim=True)
    mean_B1 = (reward_BG * real).sum(1, keepdim=True) / count_B1.clamp(min=1)
    centred_BG = (reward_BG - mean_B1) * real
    sd_B1 = (centred_BG.square().sum(1, keepdim=True) / (count_B1 - 1).clamp(min=1)).sqrt()
    return centred_BG / (sd_B1 + 1e-4)
