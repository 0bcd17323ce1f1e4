"""What a generator is trained and validated on."""

from pydantic import Field

from dasrec.core import StageConfig


class DataConfig(StageConfig):
    """What the model is trained and validated on."""

    max_history: int = Field(20, ge=1)
    """Items of context at most; longer histories are cut into windows."""

    user_dropout: float = Field(0.3, ge=0, le=1)
    """Share of training sequences whose user SID is hidden."""

    text_fraction: float = Field(0.1, ge=0, le=1)
    """Share of the item text <-> SID examples drawn per epoch; 0 trains on behaviour only."""

    max_text_tokens: int = Field(32, ge=1)
    """Text tokens per item at most."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Label smoothing of the token losses."""

    validation_queries: int = Field(2000, ge=0)
    """Validation queries (a fixed random subset) that choose the best epoch; 0 keeps the last."""

    validation_beams: int = Field(20, ge=1)
    """Beams of the validation lists."""
