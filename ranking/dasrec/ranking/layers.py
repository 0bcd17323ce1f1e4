"""Target attention over the history and the cross network; pure modules.

Shape letters: B batch, T history length, D item width, L levels, H hidden width, F input width.
"""

import torch
from torch import Tensor, nn


class TargetAttention(nn.Module):
    """History pooled with weights that depend on the target (DIN, arXiv 1706.06978).

    weight_t = v . relu(W_h h_t + W_x x + W_m (h_t * x) + W_s same_t + p_t + b), output
    sum_t weight_t h_t, not normalised, as in the paper: the amount of interest is kept. `same_t`
    says which semantic-ID prefixes item t shares with the target (QARM's matching), p_t is an
    embedding of how long ago, in events, the item was.
    """

    def __init__(self, item_dim: int, hidden_dim: int, num_levels: int, max_history: int) -> None:
        """Make the weights.

        Args:
            item_dim: D.
            hidden_dim: H.
            num_levels: L, 0 when no prefixes are matched.
            max_history: largest T.
        """
        super().__init__()
        self.history = nn.Linear(item_dim, hidden_dim)
        self.target = nn.Linear(item_dim, hidden_dim, bias=False)
        self.product = nn.Linear(item_dim, hidden_dim, bias=False)
        self.same = nn.Linear(num_levels, hidden_dim, bias=False) if num_levels else None
        self.position = nn.Parameter(torch.zeros(max_history, hidden_dim))
        self.weight = nn.Linear(hidden_dim, 1)

    def forward(
        self, target_BD: Tensor, history_BTD: Tensor, same_BTL: Tensor, real_BT: Tensor
    ) -> Tensor:
        """Pool the history.

        Args:
            target_BD: (B, D) the item to score.
            history_BTD: (B, T, D) earlier items, the latest last.
            same_BTL: (B, T, L) 1 where prefix l is the target's.
            real_BT: (B, T) False at padding.

        Returns:
            (B, D); zero for an empty history.
        """
        # W_h h + W_m (h * x) = (W_h + W_m diag(x)) h: one matrix per row, no (B, T, 4 D) tensor.
        matrix_BHD = self.history.weight + self.product.weight * target_BD[:, None, :]
        bias_BH = self.history.bias + self.target(target_BD)
        hidden_BTH = torch.baddbmm(bias_BH[:, None, :], history_BTD, matrix_BHD.transpose(1, 2))
        hidden_BTH = hidden_BTH + self.position[-history_BTD.shape[1] :]
        if self.same is not None:
            hidden_BTH = hidden_BTH + self.same(same_BTL)
        weight_BT = self.weight(torch.relu(hidden_BTH)).squeeze(2) * real_BT
        return torch.bmm(weight_BT[:, None, :], history_BTD).squeeze(1)


class CrossNetwork(nn.Module):
    """x_{k+1} = x_0 * (W_k x_k + b_k) + x_k (DCN-V2, arXiv 2008.13535)."""

    def __init__(self, input_dim: int, num_layers: int) -> None:
        """Make `num_layers` full-rank cross layers of width `input_dim`."""
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(input_dim, input_dim) for _ in range(num_layers))

    def forward(self, input_BF: Tensor) -> Tensor:
        """Cross the (B, F) input with itself; same shape."""
        crossed_BF = input_BF
        for layer in self.layers:
            crossed_BF = input_BF * layer(crossed_BF) + crossed_BF
        return crossed_BF


def mlp(input_dim: int, hidden_dims: tuple[int, ...], dropout: float) -> nn.Sequential:
    """Linear, ReLU and dropout for every hidden width."""
    layers: list[nn.Module] = []
    for size in hidden_dims:
        layers += [nn.Linear(input_dim, size), nn.ReLU(), nn.Dropout(dropout)]
        input_dim = size
    return nn.Sequential(*layers)


def prefix_matches(target_BL: Tensor, history_BTL: Tensor) -> Tensor:
    """Which prefixes of each history item are the target's.

    Args:
        target_BL: (B, L) prefix keys of the target.
        history_BTL: (B, T, L) prefix keys of the history; 0 = padding.

    Returns:
        (B, T, L) float, 1 where the prefixes of that length are equal.
    """
    return ((history_BTL == target_BL[:, None, :]) & (history_BTL > 0)).float()
