"""MLPs on the fields: plain, and with Dice behind target attention (DIN)."""

from torch import Tensor, nn

from dasrec.ranking.backbones.config import ModelConfig
from dasrec.ranking.backbones.fields import FieldSizes, flat
from dasrec.ranking.inputs import Inputs
from dasrec.ranking.layers import Dice, mlp


class Dnn(nn.Module):
    """Embeddings, MLP, logit."""

    def __init__(self, config: ModelConfig, sizes: FieldSizes) -> None:
        """Make the weights."""
        super().__init__()
        self.mlp = mlp(sizes.width, config.hidden_dims, config.dropout)
        self.output = nn.Linear(config.hidden_dims[-1], 1)

    def forward(self, inputs: Inputs) -> Tensor:
        """(B,) logits."""
        logit_B: Tensor = self.output(self.mlp(flat(inputs))).squeeze(1)
        return logit_B


class Din(Dnn):
    """The MLP of DIN (arXiv 1706.06978): Dice for ReLU; its attention is `history: attention`."""

    def __init__(self, config: ModelConfig, sizes: FieldSizes) -> None:
        """Make the weights."""
        super().__init__(config, sizes)
        self.mlp = mlp(sizes.width, config.hidden_dims, config.dropout, Dice)
