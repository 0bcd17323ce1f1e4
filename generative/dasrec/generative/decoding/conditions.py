"""Conditions on item attributes, as requests give them, read into polars expressions.

A request is a mapping of columns to conditions, all of which an item has to meet:

    {"category": ["lipstick", "mascara"], "price": {"max": 20}, "in_stock": True}

| condition                | an item meets it if its value                          |
|--------------------------|--------------------------------------------------------|
| a value                  | is that value                                          |
| a list of values         | is one of them                                         |
| `{"min": a, "max": b}`   | lies in a..b, ends included; either may be left out    |
| `{"contains": "text"}`   | has the text in it, letter by letter                   |
| `{"not": condition}`     | does not meet the condition                            |
| `None`                   | is missing; `{"not": None}`: is there                  |

In a column of lists one value of an item's list has to meet the condition. A missing value (NaN
too) meets no condition but `None`, negated ones included: nobody knows what it would be.
"""

from collections.abc import Collection, Mapping
from datetime import date, datetime
from typing import Any

import polars as pl

Where = Mapping[str, Any]


def expression(where: Where, schema: Mapping[str, pl.DataType]) -> pl.Expr:
    """True, False or null for each row of a table with columns of `schema`.

    Raises:
        ValueError: An unknown column, an unknown form of condition, or a value of another type
            than the column's.
    """
    conditions = [pl.lit(True)]
    for name, condition in where.items():
        if name not in schema:
            columns = ", ".join(f"{column} ({dtype})" for column, dtype in schema.items())
            raise ValueError(f"where: items have no column '{name}'; they have {columns}")
        conditions.append(_meets(pl.col(name), name, schema[name], condition))
    return pl.all_horizontal(conditions)


def _meets(value: pl.Expr, name: str, dtype: pl.DataType, condition: Any) -> pl.Expr:
    """Whether `value`, of column `name` or of an element of its lists, meets the condition."""
    if isinstance(condition, Mapping) and set(condition) == {"not"}:
        return ~_meets(value, name, dtype, condition["not"])
    if condition is None:
        return (value.fill_nan(None) if dtype.is_float() else value).is_null()
    if isinstance(dtype, pl.List):
        inner = pl.DataType.from_python(str) if dtype.inner is None else dtype.inner
        element = _meets(pl.element(), name, inner, condition)  # type: ignore[arg-type]
        return value.list.eval(element).list.any()
    if dtype.is_float():
        value = value.fill_nan(None)
    elif isinstance(dtype, pl.Categorical | pl.Enum):
        value, dtype = value.cast(pl.String), pl.String()
    if isinstance(condition, Mapping):
        return _compound(value, name, dtype, dict(condition))
    several = isinstance(condition, Collection) and not isinstance(condition, str)
    values = _checked(name, dtype, list(condition) if several else [condition])
    if not dtype.is_numeric():
        return value.is_in(pl.Series(values, dtype=dtype).implode())
    # One type for both: polars does not look for halves among whole numbers, nor large in small.
    whole = dtype.is_integer() and all(isinstance(v, int) for v in values)
    common = pl.Int64 if whole else pl.Float64
    return value.cast(common, strict=False).is_in(pl.Series(values, dtype=common).implode())


def _compound(value: pl.Expr, name: str, dtype: pl.DataType, condition: dict[str, Any]) -> pl.Expr:
    keys = set(condition)
    if keys == {"contains"} and dtype == pl.String:
        (text,) = _checked(name, dtype, [condition["contains"]])
        return value.str.contains(text, literal=True)
    if keys and keys <= {"min", "max"} and (dtype.is_numeric() or dtype.is_temporal()):
        _checked(name, dtype, list(condition.values()))
        bounds = [value >= condition["min"]] if "min" in keys else []
        bounds += [value <= condition["max"]] if "max" in keys else []
        return pl.all_horizontal(bounds)
    raise ValueError(
        f"where: column '{name}' ({dtype}) cannot be asked for {condition}; give a value, a list of"
        ' values, {"not": condition}, for numbers and times {"min": a, "max": b}, for text'
        ' {"contains": "text"}'
    )


def _checked(name: str, dtype: pl.DataType, values: list[Any]) -> list[Any]:
    """`values`, each of the column's type: polars would cast some and compare others as text."""
    kinds: tuple[tuple[bool, tuple[type, ...], str], ...] = (
        (dtype == pl.Boolean, (bool,), "True or False"),
        (dtype.is_numeric(), (int, float), "a number"),
        (dtype == pl.Date, (date,), "a date"),
        (isinstance(dtype, pl.Datetime), (datetime,), "a datetime"),
        (dtype == pl.String, (str,), "text"),
    )
    for applies, types, wanted in kinds:
        if applies:
            for value in values:
                if type(value) not in types:
                    raise ValueError(
                        f"where: column '{name}' ({dtype}) needs {wanted}, got {value!r}"
                    )
            return values
    raise ValueError(f"where: column '{name}' has type {dtype}, for which there are no conditions")
