"""Maximum mean discrepancy of two samples (Gretton et al., JMLR 2012)."""

import torch
from torch import Tensor


def mmd(a_BD: Tensor, b_BD: Tensor, alpha: float = 0.5) -> Tensor:
    """Squared MMD: mean k(a, a') + mean k(b, b') - 2 mean k(a, b), at least 0.

    k(x, y) = exp(-||x - y||^2 / (2 s)), where s is `alpha` times the mean of ||x - y||^2 over all
    pairs of the 2B rows, without gradient: the kernel of MME-SID's code (tllib). That code leaves
    pairs of a row with itself out of the first two means and adds 2 / (B - 1); this is the same up
    to terms of order 1 / B.
    """
    rows = len(a_BD)
    x_RD = torch.cat([a_BD, b_BD])
    length_R = x_RD.square().sum(1)
    distance_RR = torch.addmm(length_R[:, None] + length_R, x_RD, x_RD.T, alpha=-2).clamp_min(0)
    width = alpha * distance_RR.detach().mean()
    k_RR = (-distance_RR / (2 * width.clamp_min(1e-12))).exp()
    return k_RR[:rows, :rows].mean() + k_RR[rows:, rows:].mean() - 2 * k_RR[:rows, rows:].mean()
