"""Spreading rows evenly over codewords: Sinkhorn-Knopp assignment and the entropy term.

Shape letters: B rows, K codebook size, D code dimension.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

ITERATIONS = 50


@torch.no_grad()
def sinkhorn(cost_BK: Tensor, epsilon: float, iterations: int = ITERATIONS) -> Tensor:
    """Transport plan (B, K), float64, of entropic optimal transport (Cuturi, 2013).

        min_Q sum_bk Q_bk cost_bk - epsilon H(Q),  rows sum to 1/B, columns to 1/K

    The scaling form u K v needs two matrix-vector products an iteration; public code normalises
    the whole matrix twice. Each row's least cost is subtracted first (u absorbs it), so that no
    row underflows.
    """
    cost = cost_BK.double()
    kernel_BK = torch.exp((cost.min(1, keepdim=True).values - cost) / epsilon)
    rows, columns = 1 / len(cost), 1 / cost.shape[1]
    tiny = torch.finfo(torch.float64).tiny
    u_B = kernel_BK.new_full((len(cost),), rows)
    for _ in range(iterations):
        v_K = columns / (kernel_BK.T @ u_B).clamp_min(tiny)
        u_B = rows / (kernel_BK @ v_K).clamp_min(tiny)
    return u_B[:, None] * kernel_BK * v_K


def balanced(distance_BK: Tensor, epsilon: float) -> Tensor:
    """Codes (B,) of the balanced assignment; costs are centred to [-1, 1] as in LC-Rec."""
    low, high = distance_BK.min(), distance_BK.max()
    cost_BK = (distance_BK - (high + low) / 2) / ((high - low) / 2).clamp_min(1e-12)
    return sinkhorn(cost_BK, epsilon).argmax(1)


def usage_gap(distance_BK: Tensor) -> Tensor:
    """log K minus the entropy of the batch's mean soft assignment; 0 at uniform use."""
    temperature = distance_BK.detach().min(1).values.mean().clamp_min(1e-6)
    usage_K = F.softmax(-distance_BK / temperature, 1).mean(0)
    return math.log(distance_BK.shape[1]) + (usage_K * usage_K.clamp_min(1e-12).log()).sum()
