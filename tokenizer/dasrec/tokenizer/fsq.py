"""Finite scalar quantization of residuals (arXiv 2309.15505; QARM V2, arXiv 2602.08559).

    y = sigmoid(P (r - mean) / s);   q_m = round(y_m (L_m - 1));   code = sum_m q_m L_1 ... L_(m-1)

P: the first M principal axes of the residuals, s: their standard deviations. Nothing is searched:
nearby residuals fall apart by rounding, and the codes of a level are used more evenly.

A code is a point of a grid. Lifted back through P it is a codeword like any other, so that z stays
a sum of codewords; but the code of a residual is found by rounding, not as the nearest codeword.

Shape letters: N rows, D width, M axes, K = L_1 ... L_M codes.
"""

import math

import torch
from torch import Tensor, nn


class Fsq(nn.Module):
    """One level of grid codes."""

    mean_D: Tensor
    axes_MD: Tensor
    scale_M: Tensor

    def __init__(self, steps: tuple[int, ...], width: int) -> None:
        """Make room for the axes.

        Args:
            steps: L_m, grid values along each axis.
            width: D, at least as many as there are axes.
        """
        super().__init__()
        self.steps = steps
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("axes_MD", torch.zeros(len(steps), width))
        self.register_buffer("scale_M", torch.ones(len(steps)))

    def codes(self, r_ND: Tensor) -> Tensor:
        """(N,) int64."""
        return self._join(self._digits(self._project(r_ND)))

    @torch.no_grad()
    def fit(self, r_ND: Tensor) -> Tensor:
        """Set the axes, and return the (K, D) codewords of all codes.

        A grid value stands for the mean coordinate of the residuals rounded to it (none: for the
        middle of its interval).
        """
        count = len(self.steps)
        self.mean_D.copy_(r_ND.mean(0))
        centred = (r_ND - self.mean_D).double()
        _, axes_DD = torch.linalg.eigh(centred.T @ centred)
        axes_MD = axes_DD.T.flip(0)[:count]
        largest_M = axes_MD.abs().argmax(1, keepdim=True)
        axes_MD = axes_MD * axes_MD.gather(1, largest_M).sign()  # an axis has no direction
        self.axes_MD.copy_(axes_MD)
        self.scale_M.copy_((centred @ axes_MD.T).std(0, correction=0).clamp_min(1e-6))
        coordinate_NM = self._project(r_ND)
        digit_NM = self._digits(coordinate_NM)
        values = [
            _means(coordinate_NM[:, m], digit_NM[:, m], size) for m, size in enumerate(self.steps)
        ]
        # cartesian_prod counts its last argument fastest; here the first axis is.
        grid_KM = torch.cartesian_prod(*reversed(values)).reshape(-1, count).flip(1)
        return self.mean_D + (grid_KM * self.scale_M) @ self.axes_MD

    def _project(self, r_ND: Tensor) -> Tensor:
        return (r_ND - self.mean_D) @ self.axes_MD.T / self.scale_M

    def _digits(self, coordinate_NM: Tensor) -> Tensor:
        top_M = torch.tensor(self.steps, device=coordinate_NM.device) - 1
        return torch.round(coordinate_NM.sigmoid() * top_M).long()

    def _join(self, digit_NM: Tensor) -> Tensor:
        place = [math.prod(self.steps[:m]) for m in range(len(self.steps))]
        return (digit_NM * torch.tensor(place, device=digit_NM.device)).sum(1)


def _means(coordinate_N: Tensor, digit_N: Tensor, size: int) -> Tensor:
    """What each grid value of an axis stands for, (size,)."""
    edge = ((torch.arange(size + 1) - 0.5) / (size - 1)).clamp(0, 1)
    middle = torch.logit((edge[1:] + edge[:-1]) / 2).to(coordinate_N)
    count = torch.bincount(digit_N, minlength=size)
    total = torch.zeros_like(middle).index_add_(0, digit_N, coordinate_N)
    return torch.where(count > 0, total / count.clamp_min(1), middle)
