"""Size and kind of the network."""

from typing import Literal, Self

from pydantic import Field, model_validator

from dasrec.core.config import StageConfig


class ModelConfig(StageConfig):
    """The CTR network: embeddings, how the history is pooled, and the backbone."""

    backbone: Literal["dcnv2", "deepfm", "finalmlp", "din", "dnn"] = "dcnv2"
    """What joins the fields: cross network beside an MLP (arXiv 2008.13535), factorization machine
    beside an MLP (1703.04247), two gated MLPs with bilinear fusion (2304.00902), an MLP with Dice
    behind target attention (1706.06978), or an MLP."""

    history: Literal["attention", "mean", "none"] = "attention"
    """How earlier items become a field: weighed by the target (DIN), their mean, or left out."""

    embedding_dim: int = Field(default=16, ge=1)
    """Width of every field."""

    attention_dim: int = Field(default=32, ge=1)
    """Hidden width of the target attention."""

    cross_layers: int = Field(default=2, ge=0)
    """dcnv2: layers of the cross network."""

    cross_rank: int | None = Field(default=64, ge=1)
    """dcnv2: rank of its matrices; null = full. With many fields full matrices are most of
    the model's time; the paper finds a quarter of the width enough."""

    hidden_dims: tuple[int, ...] = Field(default=(128, 64), min_length=1)
    """Hidden widths of the MLP; of both streams of finalmlp."""

    gate_dim: int = Field(default=64, ge=1)
    """finalmlp: hidden width of the feature gates."""

    fusion_heads: int = Field(default=8, ge=1)
    """finalmlp: heads of the bilinear fusion; must divide the last of `hidden_dims`."""

    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Dropout after every hidden layer of the MLP."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.backbone == "din" and self.history != "attention":
            raise ValueError(
                f"backbone: din needs history: attention, got {self.history}; choose dnn for "
                "an MLP on another history"
            )
        if self.backbone == "finalmlp" and self.hidden_dims[-1] % self.fusion_heads:
            raise ValueError(
                f"fusion_heads: must divide the last of hidden_dims ({self.hidden_dims[-1]}), "
                f"got {self.fusion_heads}"
            )
        return self
