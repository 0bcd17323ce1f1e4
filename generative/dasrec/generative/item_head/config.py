"""Config of the item head: how it is trained, and how its scores join the beam's."""

from pydantic import Field

from dasrec.core import StageConfig


class ItemHeadConfig(StageConfig):
    """Training of the head; the generator is frozen."""

    dropout: float = Field(0.2, ge=0, lt=1)
    """On the states."""

    learning_rate: float = Field(3e-3, gt=0)
    """AdamW's step size at the start; it falls evenly to 0 at the last of `epochs`."""

    weight_decay: float = Field(0.01, ge=0)
    """AdamW's; it also holds the items' own vectors down."""

    batch_size: int = Field(2048, ge=1)
    """Next items per step."""

    epochs: int = Field(6, ge=1)
    """Epochs at most."""

    patience: int = Field(2, ge=0)
    """Stop after this many epochs without a better validation NDCG@10 of the head alone."""

    max_states: int = Field(1_000_000, ge=1)
    """Next items to learn from; of a larger log so many are drawn. Their states stay in memory."""

    valid_queries: int = Field(10_000, ge=1)
    """Validation queries, drawn at random, that early stopping looks at."""


class ItemRankConfig(StageConfig):
    """Joining of the two scores."""

    width: int = Field(50, ge=1)
    """Items per list."""

    weight: float | None = Field(None, ge=0)
    """Of the head's logit beside the beam's log-probability; none given = the best of `weight_grid`
    by NDCG@10 on the validation queries."""

    weight_grid: tuple[float, ...] = Field((0.0, 0.25, 0.5, 1.0, 2.0, 4.0), min_length=1)
    """Weights to try."""


class ItemHeadSection(StageConfig):
    """The generator's item head: without this section it has none."""

    tokenizers: tuple[str, ...] | None = None
    """Of the generators on whose SIDs; none given = all that the generator has lists for."""

    train: ItemHeadConfig = ItemHeadConfig()
    """The head."""

    rank: ItemRankConfig = ItemRankConfig()
    """Lists of beam and head together, named METHOD_head."""
