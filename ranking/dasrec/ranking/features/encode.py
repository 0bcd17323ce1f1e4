"""Tables to rows of embeddings and numbers, by a fitted schema.

Shape letters: R rows of a table, A categories, N standardised numbers, S sequences, K values of a
sequence, E summed widths of dense vectors.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from dasrec.core.corpus import Corpus, Int64s
from dasrec.ranking.features import columns
from dasrec.ranking.features.context import with_time
from dasrec.ranking.features.dense import open_vectors
from dasrec.ranking.features.fields import (
    HOUR,
    WEEKDAY,
    DenseField,
    NumericField,
    SequenceField,
    TableSide,
    column_of,
)
from dasrec.ranking.features.schema import FeatureSchema, FittedField

Floats = npt.NDArray[np.float32]

CLIP = 5.0
"""Standardised numbers are cut at so many deviations."""


class Encoded(NamedTuple):
    """The columns of one table, ready to be looked up."""

    categories: Int64s
    """(R, A) row in each field's embedding, 0 = missing or unknown."""
    numbers: Floats
    """(R, N) standardised; NaN = missing."""
    sequences: Int64s
    """(R, S, K) 1 + row in each field's embedding; 0 = no value."""
    dense: Floats
    """(R, E) frozen vectors side by side."""


def encode_table(schema: FeatureSchema, side: TableSide, corpus: Corpus) -> Encoded:
    """The users or items of a corpus.

    Raises:
        ValueError: a column is missing or of another type than in training, a number is not
            finite, or vectors are not those of the training.
    """
    frame = corpus.users if side == "user" else corpus.items
    sequences = [_sequence(field, frame) for field in schema.sequences(side)]
    width = max((rows.shape[1] for rows in sequences), default=0)
    padded = [np.pad(rows, ((0, 0), (0, width - rows.shape[1]))) for rows in sequences]
    dense = [_dense(field, corpus) for field in schema.dense(side)]
    size = len(frame)
    return Encoded(
        _stacked([_category(field, frame) for field in schema.categories(side)], size, np.int64),
        _stacked([_number(field, frame) for field in schema.numbers(side)], size, np.float32),
        np.stack(padded, axis=1) if padded else np.zeros((size, 0, 0), np.int64),
        np.concatenate(dense, axis=1) if dense else np.zeros((size, 0), np.float32),
    )


def encode_context(
    schema: FeatureSchema, frame: pl.DataFrame | None, size: int
) -> tuple[Int64s, Floats]:
    """(M, A) categories and (M, N) numbers of the context of `size` rows.

    Args:
        schema: with the fields of side `context`.
        frame: the log's columns and `timestamp` (seconds); None = the context is not known, and
            every field missing.
        size: M.

    Raises:
        ValueError: a column is missing or of another type than in training, a number is not
            finite, or the frame has another number of rows.
    """
    categories, numbers = schema.categories("context"), schema.numbers("context")
    if frame is None:
        return (
            np.zeros((size, len(categories)), np.int64),
            np.full((size, len(numbers)), np.nan, np.float32),
        )
    if len(frame) != size:
        raise ValueError(f"ranking: {size} rows to score but {len(frame)} rows of context")
    timed = with_time(frame)
    return (
        _stacked([_category(field, timed) for field in categories], size, np.int64),
        _stacked([_number(field, timed) for field in numbers], size, np.float32),
    )


def known_context(schema: FeatureSchema, timestamp_M: Int64s) -> pl.DataFrame:
    """A frame for `encode_context` where of the context only the time (seconds) is known."""
    missing = [name for name in context_columns(schema) if name != "timestamp"]
    frame = pl.DataFrame({"timestamp": timestamp_M})
    return frame.with_columns(pl.lit(None).alias(name) for name in missing)


def context_columns(schema: FeatureSchema) -> tuple[str, ...]:
    """Columns that a frame for `encode_context` must have."""
    fields = (*schema.categories("context"), *schema.numbers("context"))
    names = [_column(field) for field in fields]
    timed = any(name in (HOUR, WEEKDAY) for name in names)
    plain = [name for name in names if name not in (HOUR, WEEKDAY)]
    return tuple(dict.fromkeys([*plain, *(["timestamp"] if timed else [])]))


def hashed_rows(text: pl.Series, hash_size: int, salt: str) -> pl.Series:
    """Row 1..hash_size - 1 of every value, 0 for null; the same in every run and version."""
    distinct = text.drop_nulls().unique()
    rows = [
        int.from_bytes(hashlib.blake2b(f"{salt}\0{value}".encode(), digest_size=8).digest())
        % (hash_size - 1)
        + 1
        for value in distinct
    ]
    return text.replace_strict(distinct, rows, default=None, return_dtype=pl.Int64).fill_null(0)


def check_vectors(schema: FeatureSchema, corpus: Corpus) -> None:
    """Refuse frozen vectors other than those of the training.

    Raises:
        FileNotFoundError: they are gone.
        ValueError: they have changed, or are of another corpus.
    """
    for field in (*schema.dense("user"), *schema.dense("item")):
        _dense(field, corpus)


def field_collisions(schema: FeatureSchema, corpus: Corpus) -> dict[str, float]:
    """Distinct values per used row of every hashed field of users and items; 1 = none."""
    found = {}
    for side, frame in (("user", corpus.users), ("item", corpus.items)):
        for field in schema.fields:
            spec = field.spec
            if isinstance(spec, NumericField | DenseField) or spec.side != side:
                continue
            if spec.hash_size is not None:
                text = _text(field, frame).drop_nulls()
                rows = hashed_rows(text, spec.hash_size, spec.name)
                found[f"{side}.{spec.name}"] = text.n_unique() / max(rows.n_unique(), 1)
    return found


def _where(field: FittedField) -> str:
    return f"ranking.features.fields.{field.spec.name}"


def _column(field: FittedField) -> str:
    assert not isinstance(field.spec, DenseField)
    return column_of(field.spec)


def _read(field: FittedField, frame: pl.DataFrame) -> pl.Series:
    """The field's column, of the kind that it was in training."""
    where = f"{_where(field)} ({field.spec.side}s)"
    values = columns.column(frame, _column(field), where)
    kind = columns.kind_of(values)
    if kind != field.kind and "none" not in (kind, field.kind):
        raise ValueError(
            f"{where}: column '{values.name}' held {field.kind}s in training, got {values.dtype}; "
            "give it in the form of the training data"
        )
    return values


def _text(field: FittedField, frame: pl.DataFrame) -> pl.Series:
    """Categories of a field as text, one by one."""
    values, spec = _read(field, frame), field.spec
    if isinstance(spec, SequenceField):
        lists = columns.as_lists(values, spec.separator, _where(field))
        return lists.filter(lists.list.len() > 0).explode()
    return columns.as_categories(values, _where(field))


def _rows_of(field: FittedField, text: pl.Series) -> Int64s:
    """Row of every value, 0 = missing or unknown."""
    spec = field.spec
    assert not isinstance(spec, NumericField | DenseField)
    if spec.hash_size is not None:
        return hashed_rows(text, spec.hash_size, spec.name).to_numpy()
    if not field.values:
        return np.zeros(len(text), np.int64)
    known = text.replace_strict(
        field.values, range(1, len(field.values) + 1), default=0, return_dtype=pl.Int64
    )
    return known.fill_null(0).to_numpy()


def _category(field: FittedField, frame: pl.DataFrame) -> Int64s:
    if not isinstance(field.spec, NumericField):
        return _rows_of(field, _text(field, frame))
    numbers = columns.as_numbers(_read(field, frame), _where(field)).to_numpy()
    bucket = 1 + np.searchsorted(np.array(field.edges), numbers, side="right")
    return np.where(np.isnan(numbers), 0, bucket)


def _number(field: FittedField, frame: pl.DataFrame) -> Floats:
    numbers = columns.as_numbers(_read(field, frame), _where(field)).to_numpy()
    standard = np.clip((numbers - field.mean) / field.std, -CLIP, CLIP)
    return standard.astype(np.float32)


def _sequence(field: FittedField, frame: pl.DataFrame) -> Int64s:
    """(R, K) 1 + row of the first values of each list."""
    spec = field.spec
    assert isinstance(spec, SequenceField)
    lists = columns.as_lists(_read(field, frame), spec.separator, _where(field))
    lists = lists.list.drop_nulls().list.head(spec.max_length)
    length = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
    rows = np.zeros((len(lists), int(length.max(initial=0))), np.int64)
    filled = np.arange(rows.shape[1]) < length[:, None]
    values = lists.filter(lists.list.len() > 0).explode()
    rows[filled] = 1 + _rows_of(field, values)
    return rows


def _dense(field: FittedField, corpus: Corpus) -> Floats:
    assert isinstance(field.spec, DenseField)
    vectors, digest = open_vectors(field.spec, corpus)
    if digest != field.digest:
        raise ValueError(
            f"{_where(field)}: {field.spec.path} is {digest[:16]}, the model was trained with "
            f"{field.digest[:16]}; give the same vectors, or train again"
        )
    return vectors


def _stacked(
    parts: Sequence[npt.NDArray[Any]], size: int, dtype: type[np.generic]
) -> npt.NDArray[Any]:
    if not parts:
        return np.zeros((size, 0), dtype)
    return np.stack(parts, axis=1).astype(dtype)
