"""DeepFM: a factorization machine and an MLP on the same embeddings (arXiv 1703.04247)."""

import torch
from torch import Tensor, nn

from dasrec.ranking.backbones.config import ModelConfig
from dasrec.ranking.backbones.fields import FieldSizes, fields, flat
from dasrec.ranking.inputs import Inputs
from dasrec.ranking.layers import mlp


def pairwise_products(fields_BND: Tensor) -> Tensor:
    """(B,) sum_{i<j} <v_i, v_j> in linear time: (|sum_i v_i|^2 - sum_i |v_i|^2) / 2 (Rendle)."""
    summed_BD = fields_BND.sum(1)
    return (summed_BD.square().sum(1) - fields_BND.square().sum((1, 2))) / 2


class DeepFm(nn.Module):
    """First-order terms, pairwise products and an MLP, added up.

    The first-order weight of a category is <w_f, v>, linear in its embedding with one vector per
    field ("FiLV", arXiv 1806.03514): no second table to look up, as many weights as categories.
    """

    def __init__(self, config: ModelConfig, sizes: FieldSizes) -> None:
        """Make the weights."""
        super().__init__()
        self.first_order = nn.Linear(sizes.width, 1)
        self.mlp = mlp(sizes.width, config.hidden_dims, config.dropout)
        self.output = nn.Linear(config.hidden_dims[-1], 1, bias=False)

    def forward(self, inputs: Inputs) -> Tensor:
        """(B,) logits."""
        input_BF = flat(inputs)
        linear_B1 = self.first_order(input_BF) + self.output(self.mlp(input_BF))
        return torch.add(linear_B1.squeeze(1), pairwise_products(fields(inputs)))
