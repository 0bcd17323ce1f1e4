"""The user's earlier items as fields: weighed by the target, their mean, or left out.

Shape letters: B batch, T history length, E width of an item in the history, L levels, H hidden
width, K fields that the pooled history makes, D width of a field.
"""

import torch
from torch import Tensor, nn

from dasrec.ranking.inputs import Inputs


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
            item_dim: E.
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
        self, target_BE: Tensor, history_BTE: Tensor, same_BTL: Tensor, real_BT: Tensor
    ) -> Tensor:
        """Pool the history.

        Args:
            target_BE: (B, E) the item to score.
            history_BTE: (B, T, E) earlier items, the latest last.
            same_BTL: (B, T, L) 1 where prefix l is the target's.
            real_BT: (B, T) False at padding.

        Returns:
            (B, E); zero for an empty history.
        """
        # W_h h + W_m (h * x) = (W_h + W_m diag(x)) h: one matrix per row, no (B, T, 4 E) tensor.
        matrix_BHE = self.history.weight + self.product.weight * target_BE[:, None, :]
        bias_BH = self.history.bias + self.target(target_BE)
        hidden_BTH = torch.baddbmm(bias_BH[:, None, :], history_BTE, matrix_BHE.transpose(1, 2))
        hidden_BTH = hidden_BTH + self.position[-history_BTE.shape[1] :]
        if self.same is not None:
            hidden_BTH = hidden_BTH + self.same(same_BTL)
        weight_BT = self.weight(torch.relu(hidden_BTH)).squeeze(2) * real_BT
        return torch.bmm(weight_BT[:, None, :], history_BTE).squeeze(1)


def mean_of(history_BTE: Tensor, real_BT: Tensor) -> Tensor:
    """(B, E) mean of the real items; zero for an empty history."""
    weight_BT = real_BT / real_BT.sum(1, keepdim=True).clamp(min=1)
    return torch.bmm(weight_BT[:, None, :], history_BTE).squeeze(1)


class HistoryPooling(nn.Module):
    """Adds the pooled history to the user's fields: K = E / D of them (id, semantic ID)."""

    def __init__(self, attention: TargetAttention | None) -> None:
        """Weigh the items by `attention`; without one take their mean."""
        super().__init__()
        self.attention = attention

    def forward(self, inputs: Inputs) -> Inputs:
        """The inputs with K more fields of the user."""
        history_BTE, real_BT = inputs.history_BTE, inputs.real_BT
        if self.attention is None:
            pooled_BE = mean_of(history_BTE, real_BT)
        else:
            pooled_BE = self.attention(inputs.target_BE, history_BTE, inputs.same_BTL, real_BT)
        pooled_BKD = pooled_BE.unflatten(1, (-1, inputs.item_BID.shape[2]))
        return inputs._replace(user_BUD=torch.cat([inputs.user_BUD, pooled_BKD], dim=1))
