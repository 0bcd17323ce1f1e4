"""Checked columns: ids as text, times as microseconds, numbers. A fault names file, row, column.

Rows in messages count data rows from 1 (a header is not a row).
"""

from collections.abc import Mapping
from typing import Any, NoReturn

import polars as pl

US = 1_000_000
"""Microseconds in a second."""

_LATEST = 100_000_000_000 * US  # the year 5138: milliseconds read as seconds land beyond it


def ids(frame: pl.DataFrame, name: str, where: str) -> pl.Series:
    """Column `name` as text.

    Raises:
        ValueError: a null, an empty or a fractional id.
    """
    column = frame[name]
    if column.dtype.is_float():
        whole = column.cast(pl.Int64, strict=False)
        _refuse(column, whole.is_null() | (whole != column), where, "not an id", "give every row")
        column = whole
    if column.dtype.is_nested():
        raise ValueError(f"{where}: column '{name}': ids must be text or numbers, got lists")
    text = column.cast(pl.String)
    bad = text.is_null() | (text == "")
    _refuse(column, bad, where, "no id", "give every row one or remove the row")
    return text


def times(frame: pl.DataFrame, name: str, time: str, where: str) -> pl.Series:
    """Column `name` as int64 microseconds since 1970, UTC.

    Args:
        frame: the table.
        name: the column.
        time: `TableConfig.time`.
        where: the file, for messages.

    Raises:
        ValueError: a value that is not a time in the stated form.
    """
    column = frame[name]
    if column.dtype.is_temporal():
        result = column.cast(pl.Datetime("us")).dt.epoch("us")
    elif time in ("seconds", "milliseconds"):
        result = _from_number(column, US if time == "seconds" else US // 1000)
    else:
        result = _from_text(column.cast(pl.String), time)
    _refuse(column, result.is_null(), where, f"not a time ({time})", "see the `time` option")
    fix = "is it `time: milliseconds`?"
    _refuse(column, result > _LATEST, where, f"too large for {time}", fix)
    return result


def numbers(frame: pl.DataFrame, name: str, where: str) -> pl.Series:
    """Column `name` as int64, or float64 when it has fractions.

    Raises:
        ValueError: null, NaN or not a number.
    """
    column = frame[name]
    if column.dtype.is_integer() or column.dtype == pl.Boolean:
        result = column.cast(pl.Int64)
    else:
        result = column.cast(pl.Float64, strict=False)
        result = result.set(~result.is_finite(), None)
    _refuse(column, result.is_null(), where, "not a number", "give every row one or remove the row")
    return result


def choices(frame: pl.DataFrame, name: str, values: Mapping[Any, int], where: str) -> pl.Series:
    """Column `name` with each of the `values` replaced by its number, int8.

    Raises:
        ValueError: another value.
    """
    column = frame[name].cast(pl.String)
    result = column.replace_strict(values, default=None, return_dtype=pl.Int8)
    _refuse(column, result.is_null(), where, f"not one of {', '.join(values)}", "rename the values")
    return result


def refuse_row(where: str, row: int, name: str, what: str, value: Any, fix: str) -> NoReturn:
    """Raise the one error of a bad input row (`row` counts from 0)."""
    raise ValueError(f"{where}: row {row + 1}, column '{name}': {what}, got {value!r}; {fix}")


def _refuse(column: pl.Series, bad: pl.Series, where: str, what: str, fix: str) -> None:
    if (row := bad.fill_null(True).arg_max()) is not None and bad.fill_null(True)[row]:
        refuse_row(where, row, column.name, what, column[row], fix)


def _from_number(column: pl.Series, scale: int) -> pl.Series:
    whole = column if column.dtype.is_integer() else column.cast(pl.Int64, strict=False)
    # "978300760.5" is not an integer, and 1e10 in a float column must not lose its fraction
    fraction = column.cast(pl.Float64, strict=False)
    fraction = fraction.set(~(fraction.abs() < 2.0**63 / scale), None)
    exact = fraction == whole.cast(pl.Float64)
    return pl.select(
        pl.when(exact & fraction.is_not_null())
        .then(whole.cast(pl.Int64) * scale)
        .otherwise((fraction * scale).round().cast(pl.Int64, strict=False))
    ).to_series()


def _from_text(column: pl.Series, time: str) -> pl.Series:
    if time != "iso":
        return column.str.to_datetime(time, strict=False, time_unit="us").dt.epoch("us")
    text = column.str.strip_chars().str.replace("T", " ", literal=True)
    text = text.str.replace("Z$", "+00:00")
    clocks = (" %H:%M:%S%.f", " %H:%M:%S%.f%:z", " %H:%M", " %H:%M%:z", "")
    return pl.select(
        pl.coalesce(
            pl.lit(
                text.str.to_datetime(f"%Y-%m-%d{clock}", strict=False, time_unit="us").dt.epoch(
                    "us"
                )
            )
            for clock in clocks
        )
    ).to_series()
