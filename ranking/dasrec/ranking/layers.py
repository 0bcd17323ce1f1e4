"""Layers that several networks share.

Shape letters: B batch, H hidden width.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Dice(nn.Module):
    """p(s) s + (1 - p(s)) alpha s, p(s) = sigmoid((s - E[s]) / sqrt(Var[s] + eps)).

    PReLU whose step follows the data (DIN, arXiv 1706.06978, equation 3): mean and variance are
    the batch's in training and running averages in use; alpha is learned per unit from 0.
    """

    def __init__(self, dim: int) -> None:
        """Make alpha and the running averages."""
        super().__init__()
        self.normalise = nn.BatchNorm1d(dim, eps=1e-8, affine=False)
        self.alpha_H = nn.Parameter(torch.zeros(dim))

    def forward(self, input_BH: Tensor) -> Tensor:
        """(B, H) activations."""
        p_BH = torch.sigmoid(self.normalise(input_BH))
        return input_BH * (p_BH + (1 - p_BH) * self.alpha_H)


def relu(_dim: int) -> nn.Module:
    """ReLU; like `Dice`, made for a width."""
    return nn.ReLU()


def mlp(
    input_dim: int,
    hidden_dims: tuple[int, ...],
    dropout: float,
    activation: Callable[[int], nn.Module] = relu,
) -> nn.Sequential:
    """Linear, activation and dropout for every hidden width."""
    layers: list[nn.Module] = []
    for size in hidden_dims:
        layers += [nn.Linear(input_dim, size), activation(size), nn.Dropout(dropout)]
        input_dim = size
    return nn.Sequential(*layers)
