"""FinalMLP: two MLPs with gated inputs, joined by a bilinear form (arXiv 2304.00902)."""

import torch
from torch import Tensor, nn

from dasrec.ranking.backbones.config import ModelConfig
from dasrec.ranking.backbones.fields import FieldSizes, flat
from dasrec.ranking.inputs import Inputs
from dasrec.ranking.layers import mlp


class FeatureGate(nn.Module):
    """2 sigmoid(MLP(context)) * input (equation 4): the context says which inputs to look at."""

    def __init__(self, context_dim: int, hidden_dim: int, input_dim: int) -> None:
        """Make the MLP of the gate."""
        super().__init__()
        self.gate = nn.Sequential(
            nn.Linear(context_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, input_dim)
        )

    def forward(self, context_BC: Tensor, input_BF: Tensor) -> Tensor:
        """(B, F) the input, each number times 0 to 2."""
        gate_BF: Tensor = self.gate(context_BC)
        return 2 * torch.sigmoid(gate_BF) * input_BF


class BilinearFusion(nn.Module):
    """b + <w_1, x> + <w_2, y> + sum_h x_h^T W_h y_h over heads h (equations 6 and 7)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        """Make the weights; `num_heads` divides `dim`."""
        super().__init__()
        head = dim // num_heads
        self.first = nn.Linear(dim, 1)
        self.second = nn.Linear(dim, 1, bias=False)
        self.pairs_HCC = nn.Parameter(torch.empty(num_heads, head, head))
        nn.init.xavier_normal_(self.pairs_HCC)

    def forward(self, x_BE: Tensor, y_BE: Tensor) -> Tensor:
        """(B,) one number for each pair of rows."""
        linear_B: Tensor = (self.first(x_BE) + self.second(y_BE)).squeeze(1)
        heads = self.pairs_HCC.shape[:2]
        x_HBC = x_BE.unflatten(1, heads).transpose(0, 1)
        mapped_BHC = torch.bmm(x_HBC, self.pairs_HCC).transpose(0, 1)
        return linear_B + (mapped_BHC.flatten(1) * y_BE).sum(1)


class FinalMlp(nn.Module):
    """One stream gated by the user's fields, one by the item's."""

    def __init__(self, config: ModelConfig, sizes: FieldSizes) -> None:
        """Make the weights.

        Raises:
            ValueError: no field of the user or none of the item.
        """
        super().__init__()
        if not (sizes.user and sizes.item):
            raise ValueError(
                "ranking.model.backbone: finalmlp gates by the user's and by the item's fields, "
                f"got {sizes.user} and {sizes.item}; switch a feature on or take another backbone"
            )
        width, dim = sizes.width, sizes.dim
        self.user_gate = FeatureGate(sizes.user * dim, config.gate_dim, width)
        self.item_gate = FeatureGate(sizes.item * dim, config.gate_dim, width)
        self.user_mlp = mlp(width, config.hidden_dims, config.dropout)
        self.item_mlp = mlp(width, config.hidden_dims, config.dropout)
        self.fusion = BilinearFusion(config.hidden_dims[-1], config.fusion_heads)

    def forward(self, inputs: Inputs) -> Tensor:
        """(B,) logits."""
        input_BF = flat(inputs)
        user_BE = self.user_mlp(self.user_gate(inputs.user_BUD.flatten(1), input_BF))
        item_BE = self.item_mlp(self.item_gate(inputs.item_BID.flatten(1), input_BF))
        logit_B: Tensor = self.fusion(user_BE, item_BE)
        return logit_B
