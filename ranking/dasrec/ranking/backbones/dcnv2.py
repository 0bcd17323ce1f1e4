"""DCN-V2, parallel form: a cross network beside an MLP (arXiv 2008.13535, figure 1b)."""

import torch
from torch import Tensor, nn

from dasrec.ranking.backbones.config import ModelConfig
from dasrec.ranking.backbones.fields import FieldSizes, flat
from dasrec.ranking.inputs import Inputs
from dasrec.ranking.layers import mlp


class CrossNetwork(nn.Module):
    """x_{k+1} = x_0 * (U_k V_k x_k + b_k) + x_k (equations 1 and 2); U V is W at full rank."""

    def __init__(self, input_dim: int, num_layers: int, rank: int | None) -> None:
        """Make `num_layers` cross layers of width `input_dim`; full rank where `rank` is None."""
        super().__init__()
        if rank is None:
            self.layers = nn.ModuleList(nn.Linear(input_dim, input_dim) for _ in range(num_layers))
        else:
            self.layers = nn.ModuleList(
                nn.Sequential(nn.Linear(input_dim, rank, bias=False), nn.Linear(rank, input_dim))
                for _ in range(num_layers)
            )

    def forward(self, input_BF: Tensor) -> Tensor:
        """Cross the (B, F) input with itself; same shape."""
        crossed_BF = input_BF
        for layer in self.layers:
            crossed_BF = torch.addcmul(crossed_BF, input_BF, layer(crossed_BF))
        return crossed_BF


class DcnV2(nn.Module):
    """Cross network and MLP side by side."""

    def __init__(self, config: ModelConfig, sizes: FieldSizes) -> None:
        """Make the weights."""
        super().__init__()
        self.cross = CrossNetwork(sizes.width, config.cross_layers, config.cross_rank)
        self.mlp = mlp(sizes.width, config.hidden_dims, config.dropout)
        self.output = nn.Linear(sizes.width + config.hidden_dims[-1], 1)

    def forward(self, inputs: Inputs) -> Tensor:
        """(B,) logits."""
        input_BF = flat(inputs)
        joint = torch.cat([self.cross(input_BF), self.mlp(input_BF)], dim=1)
        logit_B: Tensor = self.output(joint).squeeze(1)
        return logit_B
