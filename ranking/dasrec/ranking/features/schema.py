"""What was fitted for the features; kept beside the weights and checked when scoring."""

from typing import Literal

from dasrec.core.config import StageConfig
from dasrec.ranking.features.fields import (
    CategoricalField,
    DenseField,
    Field,
    NumericField,
    SequenceField,
    Side,
)


class FittedField(StageConfig):
    """A field of the config with what the training rows say about it."""

    spec: Field
    """The field as configured or proposed."""

    kind: Literal["text", "number", "list", "vector", "none"]
    """What its column held; `none` = nothing but nulls. Another kind is refused when scoring."""

    values: tuple[str, ...] = ()
    """Vocabulary; position v has row v + 1 of the embedding, row 0 is missing or unknown."""

    edges: tuple[float, ...] = ()
    """Inner borders of the buckets of a number, ascending."""

    mean: float = 0.0
    """Of a standardised number."""

    std: float = 1.0
    """Likewise."""

    dim: int = 0
    """Width of a dense vector."""

    digest: str = ""
    """Of the file or artifact that holds dense vectors."""

    @property
    def num_rows(self) -> int:
        """Rows of the embedding table; 0 = none."""
        spec = self.spec
        if isinstance(spec, CategoricalField | SequenceField):
            return spec.hash_size or len(self.values) + 1
        if isinstance(spec, NumericField) and spec.encoding == "buckets":
            return len(self.edges) + 2
        return 0


class FittedSids(StageConfig):
    """The semantic IDs that the model was built for."""

    fingerprint: str
    """Of the SemanticIds artifact."""

    item_levels: tuple[int, ...]
    """Codebook sizes of the item SID's learned levels; empty = not used."""

    user_levels: tuple[int, ...]
    """Codebook sizes of the user SID's learned levels; empty = not used."""

    item_dim: int
    """Width of the items' quantized vectors."""

    user_dim: int
    """Width of the users'; 0 = not used."""

    user_moments: bool = False
    """Rows have the SID that the user had at their moment."""


class FeatureSchema(StageConfig):
    """Vocabularies and statistics of the training rows."""

    user_vocabulary: tuple[int, ...]
    """user_idx with an embedding of their own; position v has row v + 1, row 0 is unknown."""

    item_vocabulary: tuple[int, ...]
    """item_idx with an embedding of their own, likewise."""

    item_counts: tuple[int, ...]
    """Training rows of the items of `item_vocabulary`; all others count as never seen."""

    fields: tuple[FittedField, ...]
    """Features of users, items and context, in the order of their embeddings."""

    sids: FittedSids | None
    """None = a model without semantic IDs."""

    @property
    def item_levels(self) -> tuple[int, ...]:
        """Codebook sizes of the item SID's learned levels; empty = no item SIDs."""
        return self.sids.item_levels if self.sids else ()

    @property
    def user_levels(self) -> tuple[int, ...]:
        """Codebook sizes of the user SID's learned levels; empty = no user SIDs."""
        return self.sids.user_levels if self.sids else ()

    @property
    def user_moments(self) -> bool:
        """Rows have the SID that the user had at their moment."""
        return self.sids is not None and self.sids.user_moments

    @property
    def shared_space(self) -> bool:
        """User and item vectors have one dimension, so that their cosine means something."""
        sids = self.sids
        return sids is not None and bool(sids.item_levels) and sids.user_dim == sids.item_dim

    def categories(self, side: Side) -> tuple[FittedField, ...]:
        """Fields of a side that are one row of an embedding: categories and buckets."""
        return tuple(
            f for f in self._of(side) if f.num_rows and not isinstance(f.spec, SequenceField)
        )

    def numbers(self, side: Side) -> tuple[FittedField, ...]:
        """Standardised numbers of a side."""
        return tuple(
            f for f in self._of(side) if isinstance(f.spec, NumericField) and not f.num_rows
        )

    def sequences(self, side: Side) -> tuple[FittedField, ...]:
        """Pooled fields of a side."""
        return tuple(f for f in self._of(side) if isinstance(f.spec, SequenceField))

    def dense(self, side: Side) -> tuple[FittedField, ...]:
        """Frozen vectors of a side."""
        return tuple(f for f in self._of(side) if isinstance(f.spec, DenseField))

    def _of(self, side: Side) -> list[FittedField]:
        return [field for field in self.fields if field.spec.side == side]
