"""Typed features of users, items and the context of an impression, as written in the config."""

from typing import Annotated, Literal

import pydantic
from pydantic import model_validator

from dasrec.core.config import StageConfig

HOUR, WEEKDAY = "timestamp.hour", "timestamp.weekday"
"""Context columns that every timed row has: hour 0-23 and weekday 1 (Monday) to 7, UTC."""

TableSide = Literal["user", "item"]
Side = Literal["user", "item", "context"]


class CategoricalField(StageConfig):
    """One of several values: an embedding each."""

    type: Literal["categorical"] = "categorical"
    name: str
    """Name of the feature; features of one side have different ones."""

    side: Side
    """Table that holds the column: users, items, or the impressions (`interactions.keep`)."""

    column: str | None = None
    """Column of the table; none given = `name`."""

    min_count: int = pydantic.Field(default=2, ge=1)
    """Values of fewer training rows share the embedding of unknown and missing ones."""

    hash_size: int | None = pydantic.Field(default=None, ge=2)
    """For an open vocabulary: values are hashed to so many rows, row 0 being missing, and values
    that were never seen share the row of others. None: a vocabulary of the training rows."""


class NumericField(StageConfig):
    """A number; null = missing, which has an embedding of its own."""

    type: Literal["numeric"] = "numeric"
    name: str
    """Name of the feature."""

    side: Side
    """Table that holds the column."""

    column: str | None = None
    """Column of the table; none given = `name`."""

    encoding: Literal["buckets", "standardise"] = "buckets"
    """`buckets`: an embedding for each quantile of the training rows; right for skewed numbers.
    `standardise`: (x - mean) / deviation, cut at +-5, times a learned vector, and as it is."""

    num_buckets: int = pydantic.Field(default=16, ge=2)
    """Quantiles; equal ones are merged."""


class SequenceField(StageConfig):
    """Several values (genres, tags): the mean of their embeddings."""

    type: Literal["sequence"] = "sequence"
    name: str
    """Name of the feature."""

    side: TableSide
    """Table that holds the column."""

    column: str | None = None
    """Column of lists, or of text with a separator; none given = `name`."""

    separator: str | None = None
    """What stands between the values of a text column, e.g. `, `."""

    min_count: int = pydantic.Field(default=2, ge=1)
    """Values of fewer training rows share the embedding of unknown ones."""

    hash_size: int | None = pydantic.Field(default=None, ge=2)
    """As of categorical fields."""

    max_length: int = pydantic.Field(default=16, ge=1)
    """The first so many values count."""


class DenseField(StageConfig):
    """A frozen vector per user or item, projected to the width of an embedding."""

    type: Literal["dense"] = "dense"
    name: str
    """Name of the feature."""

    side: TableSide
    """Whose vectors."""

    path: str
    """An embeddings artifact of the same corpus, or a .npy matrix in the order of the raw table;
    relative to the working directory."""

    modality: str | None = None
    """Of an artifact: which of its item modalities; none given = the primary one."""

    @model_validator(mode="after")
    def _check(self) -> "DenseField":
        if self.modality is not None and (self.side == "user" or self.path.endswith(".npy")):
            raise ValueError("modality belongs to the items of an embeddings artifact")
        return self


Field = Annotated[
    CategoricalField | NumericField | SequenceField | DenseField,
    pydantic.Field(discriminator="type"),
]
ColumnField = CategoricalField | NumericField | SequenceField


def column_of(field: ColumnField) -> str:
    """The column that a field is read from."""
    return field.column or field.name
