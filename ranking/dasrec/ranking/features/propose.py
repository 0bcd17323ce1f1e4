"""Propose typed features for the columns of a table."""

import numpy as np
import numpy.typing as npt
import polars as pl

from dasrec.core.corpus import Int64s
from dasrec.ranking.features.columns import kind_of
from dasrec.ranking.features.fields import (
    HOUR,
    WEEKDAY,
    CategoricalField,
    ColumnField,
    NumericField,
    SequenceField,
    Side,
)

MIN_ROWS_PER_CATEGORY = 4  # a column with fewer is an identifier, not a category
MAX_DISTINCT_SHARE = 0.9  # whole numbers that hardly ever repeat are identifiers too
SAMPLE = 10_000
SEPARATORS = ("|", ";", ", ", ",")
IGNORED = ("user_id", "item_id", "source_row", "timestamp", HOUR, WEEKDAY)


def propose(
    side: Side, frame: pl.DataFrame, count: Int64s, max_categories: int
) -> list[ColumnField]:
    """Fields for the columns that look like features among the rows seen in training.

    Few values make a category, other numbers quantiles, lists of few values (or texts that hold
    them, like "drama, comedy") a pooled sequence.
    Identifiers, free text, columns with NaN, and those that only rename an earlier category
    (occupation and its name) are left out.

    Args:
        side: whose table it is.
        frame: (R rows) the table.
        count: (R,) training rows of each.
        max_categories: most distinct values of a category.
    """
    known = frame.filter(pl.Series(count > 0)) if frame.width else frame
    found: list[ColumnField] = []
    codings: set[bytes] = set()
    for name in known.columns:
        field = None if name in IGNORED else _field(side, known[name], max_categories)
        if isinstance(field, CategoricalField):
            coding = _order_of_appearance(known[name])
            if coding in codings:
                continue
            codings.add(coding)
        if field is not None:
            found.append(field)
    return found


def _field(side: Side, values: pl.Series, max_categories: int) -> ColumnField | None:
    kind = kind_of(values)
    if kind == "list":
        elements = values.filter(values.list.len() > 0).explode().drop_nulls()
        few = side != "context" and _few(elements, len(values), max_categories)
        plain = kind_of(elements) in ("text", "number")
        return SequenceField(name=values.name, side=side) if few and plain else None  # type: ignore[arg-type]  # not context
    if kind == "none" or kind is None:
        return None
    present = values.drop_nulls()
    if kind == "text" and side != "context":
        separator = _separator(present, max_categories)
        if separator is not None:
            return SequenceField(name=values.name, side=side, separator=separator)
    if values.dtype.is_float() and not present.is_finite().all():
        return None
    whole = not values.dtype.is_float() or bool((present == present.round()).all())
    if whole and _few(present, len(values), max_categories):
        return CategoricalField(name=values.name, side=side)
    if kind != "number" or present.n_unique() < 2:
        return None
    if values.dtype.is_integer() and present.n_unique() > MAX_DISTINCT_SHARE * len(present):
        return None
    return NumericField(name=values.name, side=side)


def _separator(texts: pl.Series, most: int) -> str | None:
    """What cuts texts into values that repeat: few, and fewer than there are texts ("a|b")."""
    whole = texts.cast(pl.String).unique(maintain_order=True)

    def num_parts(separator: str, values: pl.Series) -> int:
        return values.str.split(separator).explode().n_unique()

    for separator in SEPARATORS:
        if num_parts(separator, whole.head(SAMPLE)) > most:
            continue  # free text, which would take long to cut
        if num_parts(separator, whole) <= min(most, len(whole) - 1):
            return separator
    return None


def _few(values: pl.Series, num_rows: int, most: int) -> bool:
    return 2 <= values.n_unique() <= min(most, num_rows // MIN_ROWS_PER_CATEGORY)


def _order_of_appearance(values: pl.Series) -> bytes:
    """The values numbered as they appear: equal for columns that differ in names only."""
    coding: npt.NDArray[np.int64] = values.cast(pl.String).rank("dense").fill_null(0).to_numpy()
    _, first, inverse = np.unique(coding, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].tobytes()
