"""Configuration that all autoencoder tokenizers share; a method's own is in its file."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from dasrec.core import StageConfig

Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Size = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Levels = Annotated[tuple[Size, ...], Field(min_length=1)]


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError(f"a modality can be named once only, got {', '.join(names)}")
    return names


Modalities = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_distinct)] | None


def check_levels(level_sizes: tuple[int, ...]) -> None:
    """Refuse codebooks whose codes do not fit uint16."""
    if max(level_sizes) > 65_536:
        raise ValueError(f"level_sizes: codes are uint16, got {max(level_sizes)} codewords")


class AutoencoderConfig(StageConfig):
    """A residual-quantized autoencoder and its training."""

    modalities: Modalities = None
    """Item modalities (names in the embeddings) to tokenize, side by side; null: the first one."""
    level_sizes: Levels = (512, 512, 512)
    """Codebook size of each level, for users and items alike."""
    code_dim: Size = 32
    """Width of codewords and quantized embeddings."""
    hidden: tuple[Size, ...] = (512, 256, 128)
    """Hidden layers of the encoder; the decoder mirrors them."""
    commitment: Weight = 0.25
    """Weight mu of the commitment loss."""
    entropy: Weight = 0.0
    """Weight of a term that spreads a batch over the codewords of each level."""
    sinkhorn: Literal["none", "last", "all"] = "none"
    """Levels whose training assignments are balanced over the batch (LC-Rec: last)."""
    sinkhorn_epsilon: Positive = 0.003
    """Entropic regularisation of the balancing, for costs scaled to [-1, 1]."""
    codebook_update: Literal["gradient", "ema"] = "gradient"
    """How codewords follow their residuals: codebook loss, or moving averages."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Decay per step of the moving averages."""
    epochs: Size = 12
    """Passes over the training data."""
    continuous_epochs: Count | None = None
    """First epochs without quantization; then k-means on the encoders' output sets the codebooks.
    Null: four fifths. Codebooks set on an unsettled encoder lose their codewords as it moves, and
    drift towards even use of the deeper levels, which a generator finds harder to predict."""
    restart_until: Fraction = 0.8
    """Unused codewords are moved onto random residuals after each epoch up to this share of the
    epochs with quantization."""
    batch_size: Size = 1024
    """Click pairs per step (items per step where a method learns from content alone)."""
    learning_rate: Positive = 1e-3
    """Peak AdamW step; falls to 0 along a cosine."""
    weight_decay: Weight = 1e-4
    """AdamW decay of the MLPs (codebooks and ID embeddings are not decayed)."""

    @property
    def num_continuous(self) -> int:
        """Epochs without quantization."""
        given = self.continuous_epochs
        return self.epochs * 4 // 5 if given is None else given

    @property
    def id_learning_rate(self) -> float:
        """AdamW step of ID embeddings, where there are any."""
        return self.learning_rate

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_levels(self.level_sizes)
        if self.num_continuous >= self.epochs:
            raise ValueError(
                f"continuous_epochs must be below epochs ({self.epochs}), "
                f"got {self.continuous_epochs}: the codebooks would never be trained"
            )
        return self
