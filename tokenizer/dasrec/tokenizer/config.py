"""Configuration of the tokenizer: the residual quantizers, the CF debias model, the alignment."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dasrec.core import StageConfig

Weight = Annotated[float, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class IcdmConfig(StageConfig):
    """ID-based CF debias model (ICDM): gives the alignment its collaborative targets."""

    variant: Literal["cd2an", "none"] = "cd2an"
    """`cd2an` splits true from bias factors and aligns to the true ones; `none` is the paper's
    "w/o debias": one CF loss that carries popularity, alignment to the undivided vectors."""
    embedding_dim: Size = 64
    """Width of the user and item ID embeddings and of the towers' hidden layer."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-2
    """Adam step of the ID embeddings, whose rows are seen seldom; the rest uses the common one."""
    tau: Annotated[float, Field(gt=0)] = 0.1
    """Temperature of the two CF losses (cosine scores)."""
    sim: Weight = 0.1
    """Weight of L_sim, which ties the bias factors to popularity and conformity."""
    orth: Weight = 0.1
    """Weight of L_orth, which separates true from bias factors."""
    reg: Weight = 0.1
    """Weight of L_reg, which anchors the reference encoders to the popularity statistics."""


class AlignmentConfig(StageConfig):
    """Multi-view dual alignment (MDAM). A family with weight 0 is not computed."""

    u2i: Weight = 1.0
    """z_u ~ CF vector of a clicked item, z_i ~ CF vector of a clicking user."""
    same: Weight = 1.0
    """u2u and i2i: z_u ~ CF vector of the same user, z_i ~ CF vector of the same item."""
    cooccur: Weight = 1.0
    """z_u ~ z of a user who clicked the same item, z_i ~ z of an item clicked by the same user."""
    tau: Annotated[float, Field(gt=0)] = 0.1
    """Temperature of the six losses (cosine scores)."""
    window: Size = 10
    """A co-occurring item lies within this many positions in the user's training sequence."""
    damping: Fraction = 0.5
    """Exponent by which co-occurring pairs of popular items are thinned out; 0 keeps them all."""


class TokenizerConfig(StageConfig):
    """DAS: L = L_Sem + alpha L_CF + beta L_Align, trained in one stage (arXiv 2508.10584).

    With `alpha: 0` and `beta: 0` nothing but the two RQ-VAEs is left; with `user_side: false`
    as well this is TIGER's tokenizer (see `tiger_config`).
    """

    level_sizes: Annotated[tuple[Size, ...], Field(min_length=1)] = (512, 512, 512)
    """Codebook size of each level, for users and items alike."""
    code_dim: Size = 32
    """Width of codewords, quantized embeddings and CF factors."""
    hidden: tuple[Size, ...] = (512, 256, 128)
    """Hidden layers of the encoder; the decoder mirrors them."""
    user_side: bool = True
    """Also tokenize users. Without it only the item half of the alignment is left."""
    commitment: Weight = 0.25
    """Weight mu of the commitment loss."""
    entropy: Weight = 0.0
    """Weight of a term that spreads a batch over the codewords of each level."""
    alpha: Weight = 1.0
    """Weight of L_CF."""
    beta: Weight = 0.5
    """Weight of L_Align."""
    beta_warmup: Fraction = 0.05
    """Share of the steps over which beta rises from 0: CF vectors are noise at the start."""
    icdm: IcdmConfig = IcdmConfig()
    """The CF debias model."""
    alignment: AlignmentConfig = AlignmentConfig()
    """The six alignment losses."""
    epochs: Size = 12
    """Passes over the training interactions (over users and items where alpha = beta = 0)."""
    continuous_epochs: Annotated[int, Field(ge=0)] = 2
    """First epochs without quantization; then k-means on the encoders' output sets the codebooks.
    Codebooks set on an untrained encoder lose their codewords as it moves."""
    restart_until: Fraction = 0.8
    """Unused codewords are moved onto random residuals after each epoch up to this share."""
    batch_size: Size = 1024
    """Click pairs per step (users and items per step where alpha = beta = 0)."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak AdamW step; falls to 0 along a cosine."""
    weight_decay: Weight = 1e-4
    """AdamW decay of the MLPs (codebooks and ID embeddings are not decayed)."""

    @property
    def uses_pairs(self) -> bool:
        """Whether batches are click pairs rather than single users and items."""
        return self.alpha > 0 or self.beta > 0

    @property
    def uses_icdm(self) -> bool:
        """Whether a CF model is built."""
        return self.alpha > 0 or (self.beta > 0 and self.alignment.u2i + self.alignment.same > 0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if max(self.level_sizes) > 65_536:
            raise ValueError(
                f"level_sizes: codes are uint16, got {max(self.level_sizes)} codewords"
            )
        if self.continuous_epochs >= self.epochs:
            raise ValueError(
                f"continuous_epochs must be below epochs ({self.epochs}), "
                f"got {self.continuous_epochs}: the codebooks would never be trained"
            )
        return self


def tiger_config(level_sizes: tuple[int, ...] = (256, 256, 256)) -> TokenizerConfig:
    """The plain RQ-VAE over items of TIGER (arXiv 2305.05065): the same model, parts off."""
    return TokenizerConfig(
        level_sizes=level_sizes,
        user_side=False,
        alpha=0.0,
        beta=0.0,
        epochs=200,
        continuous_epochs=40,
    )
