"""Columns of raw tables in the form that features need, refused where they are of another kind.

`where` begins every message; rows in messages count from 1.
"""

from typing import Literal

import polars as pl

Kind = Literal["text", "number", "list", "none"]


def column(frame: pl.DataFrame, name: str, where: str) -> pl.Series:
    """A column.

    Raises:
        ValueError: there is no such column.
    """
    if name not in frame.columns:
        raise ValueError(
            f"{where}: no column '{name}'; the table has {', '.join(frame.columns) or 'no columns'}"
        )
    return frame[name]


def kind_of(values: pl.Series) -> Kind | None:
    """What a column holds; None for what no feature is made of (dates, structs)."""
    dtype = values.dtype
    if dtype == pl.Null:
        return "none"
    if dtype.is_numeric():
        return "number"
    if dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Enum):
        return "text"
    return "list" if isinstance(dtype, pl.List) else None


def as_categories(values: pl.Series, where: str) -> pl.Series:
    """Text, bool or whole numbers as text.

    Raises:
        ValueError: numbers with fractions, NaN, or values of another type.
    """
    kind = kind_of(values)
    if kind in (None, "list"):
        raise ValueError(
            f"{where}: column '{values.name}' holds {values.dtype}, not categories; declare it "
            "sequence if it holds lists"
        )
    if values.dtype.is_float():
        whole = as_numbers(values, where).cast(pl.Int64, strict=False)
        bad = whole.is_null() & values.is_not_null() | (whole.cast(pl.Float64) != values)
        _refuse(values, bad, where, "has a fraction", "declare the field numeric")
        values = whole
    return values.cast(pl.String)


def as_numbers(values: pl.Series, where: str) -> pl.Series:
    """Numbers as float64, null where missing.

    Raises:
        ValueError: a column of another type, NaN or an infinite number.
    """
    if kind_of(values) not in ("number", "none") and values.dtype != pl.Boolean:
        raise ValueError(
            f"{where}: column '{values.name}' holds {values.dtype}, not numbers; declare it "
            "categorical or turn it into numbers"
        )
    numbers = values.cast(pl.Float64)
    _refuse(
        numbers, ~numbers.is_finite(), where, "not a finite number", "write null if it is missing"
    )
    return numbers


def as_lists(values: pl.Series, separator: str | None, where: str) -> pl.Series:
    """Lists of text; text is cut at `separator`.

    Raises:
        ValueError: neither lists nor text with a separator.
    """
    kind = kind_of(values)
    if kind == "none":
        return values.cast(pl.List(pl.String))
    if kind == "list" and separator is None:
        return values.cast(pl.List(pl.String))
    if kind == "text" and separator is not None:
        return values.cast(pl.String).str.split(separator)
    needed = "text, as there is a separator" if separator is not None else "lists"
    raise ValueError(
        f"{where}: column '{values.name}' holds {values.dtype}, expected {needed}; give separator "
        "for text and none for lists"
    )


def _refuse(values: pl.Series, bad: pl.Series, where: str, what: str, fix: str) -> None:
    row = bad.fill_null(False).arg_max()
    if row is not None and bad[row]:
        raise ValueError(
            f"{where}: row {row + 1}, column '{values.name}': {what}, got {values[row]!r}; {fix}"
        )
