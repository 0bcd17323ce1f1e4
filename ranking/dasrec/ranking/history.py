"""The user's earlier items as fields: weighed by the target, their mean, or left out.

Shape letters: B batch, P elements of all histories, E width of one, L levels, H hidden width,
X any width, K fields that the pooled history makes, D width of a field.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dasrec.ranking.inputs import Inputs
from dasrec.ranking.places import Places


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
            max_history: length of the longest history.
        """
        super().__init__()
        self.history = nn.Linear(item_dim, hidden_dim)
        self.target = nn.Linear(item_dim, hidden_dim, bias=False)
        self.product = nn.Linear(item_dim, hidden_dim, bias=False)
        self.same = nn.Linear(num_levels, hidden_dim, bias=False) if num_levels else None
        self.position = nn.Parameter(torch.zeros(max_history, hidden_dim))
        self.weight = nn.Linear(hidden_dim, 1)

    def forward(
        self, target_BE: Tensor, history_PE: Tensor, same_PL: Tensor, places: Places
    ) -> Tensor:
        """Pool the histories.

        Args:
            target_BE: (B, E) the items to score.
            history_PE: (P, E) earlier items of all rows.
            same_PL: (P, L) 1 where prefix l is the target's.
            places: whose elements they are.

        Returns:
            (B, E); zero for an empty history.
        """
        bias_BH = self.history.bias + self.target(target_BE)
        of_target_PX = F.embedding(places.row_P, torch.cat([target_BE, bias_BH], dim=1))
        target_PE, bias_PH = of_target_PX.split([target_BE.shape[1], bias_BH.shape[1]], dim=1)
        pair_PX = torch.cat([history_PE, history_PE * target_PE], dim=1)
        weight_HX = torch.cat([self.history.weight, self.product.weight], dim=1)
        hidden_PH = torch.addmm(bias_PH, pair_PX, weight_HX.T)
        hidden_PH = hidden_PH + F.embedding(places.ago_P, self.position)
        if self.same is not None:
            hidden_PH = hidden_PH + self.same(same_PL)
        return places.sum(self.weight(torch.relu(hidden_PH)) * history_PE)


class HistoryPooling(nn.Module):
    """Adds the pooled history to the user's fields: K = E / D of them (id, semantic ID)."""

    def __init__(self, attention: TargetAttention | None) -> None:
        """Weigh the items by `attention`; without one take their mean."""
        super().__init__()
        self.attention = attention

    def forward(self, inputs: Inputs) -> Inputs:
        """The inputs with K more fields of the user."""
        target_BE, history_PE = inputs.target_BE, inputs.history_PE
        same_PL, places = inputs.same_PL, inputs.places
        if self.attention is None:
            length_B1 = places.real_BT.sum(1, keepdim=True)
            pooled_BE = places.sum(history_PE) / length_B1.clamp(min=1)
        else:
            pooled_BE = self.attention(target_BE, history_PE, same_PL, places)
        pooled_BKD = pooled_BE.unflatten(1, (-1, inputs.item_BID.shape[2]))
        return inputs._replace(user_BUD=torch.cat([inputs.user_BUD, pooled_BKD], dim=1))
