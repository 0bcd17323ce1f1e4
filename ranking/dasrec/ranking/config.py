"""Configuration of the ranking stage."""

from typing import Literal

from pydantic import Field

from dasrec.core.config import StageConfig
from dasrec.ranking.backbones import ModelConfig
from dasrec.ranking.calibration import CalibrationMethod
from dasrec.ranking.features import FeatureConfig
from dasrec.ranking.negatives import NegativesConfig


class RankingConfig(StageConfig):
    """Training of the CTR model."""

    features: FeatureConfig = FeatureConfig()
    """Inputs of the model."""

    model: ModelConfig = ModelConfig()
    """Size of the network."""

    negatives: NegativesConfig = NegativesConfig()
    """Sampled negatives, for a corpus without labelled impressions."""

    epochs: int = Field(default=5, ge=1)
    """Epochs at most; CTR models often overfit from the second one on."""

    patience: int = Field(default=1, ge=0)
    """Stop after so many epochs without a better validation GAUC; the best weights are kept."""

    batch_size: int = Field(default=2048, ge=1)
    """Rows per step."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Of AdamW."""

    schedule: Literal["constant", "linear"] = "constant"
    """`linear`: the learning rate falls to 0 at the end of the last of `epochs`. Models that are
    compared then end alike, where the best of a few epochs is a matter of luck."""

    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay of AdamW, on every parameter."""

    calibration: CalibrationMethod = "platt"
    """Fitted on the validation rows: slope and intercept, a non-descending table, or none."""
