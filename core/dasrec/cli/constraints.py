"""What the command line asks of recommended items, read into conditions and ids."""

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl

_TRUTH = {"true": True, "false": False}


def parse_where(texts: Sequence[str], schema: Mapping[str, pl.DataType]) -> dict[str, Any]:
    """Conditions on columns of the items table, as `ItemAttributes` takes them.

    Args:
        texts: `COLUMN=VALUE` or, for text, `COLUMN~PART`. An item has to meet those of every
            column; of a column given several times, one.
        schema: The table's columns; an unknown one is left to `ItemAttributes` to refuse.

    Raises:
        ValueError: Another form, or a value that is not of the column's type.
    """
    equal: dict[str, list[Any]] = {}
    contained: dict[str, str] = {}
    for text in texts:
        match = re.fullmatch(r"([^=~]+)([=~])(.*)", text, re.DOTALL)
        if match is None:
            raise ValueError(f"--where: expected COLUMN=VALUE or COLUMN~PART, got '{text}'")
        column, sign, value = match.groups()
        if column in contained or (sign == "~" and column in equal):
            raise ValueError(f"--where: give column '{column}' one ~PART, or any number of =VALUE")
        if sign == "~":
            contained[column] = value
        else:
            equal.setdefault(column, []).append(_typed(column, schema.get(column), value))
    return equal | {column: {"contains": part} for column, part in contained.items()}


def read_ids(path: Path) -> list[str]:
    """The item ids of a file, one a line; empty lines do not count.

    Raises:
        ValueError: A file without any.
    """
    ids = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    ids = [item_id for item_id in ids if item_id]
    if not ids:
        raise ValueError(f"--only: {path} has no item ids; write one a line")
    return ids


def _typed(column: str, dtype: pl.DataType | None, text: str) -> Any:
    """`text` as a value of the column's type, or of its lists' elements."""
    if isinstance(dtype, pl.List):
        inner = dtype.inner
        return _typed(column, inner() if isinstance(inner, type) else inner, text)
    try:
        if dtype is None:
            return text
        if dtype == pl.Boolean:
            return _TRUTH[text.lower()]
        if dtype.is_integer():
            return int(text)
        if dtype.is_numeric():
            return float(text)
        if dtype == pl.Date:
            return date.fromisoformat(text)
        if isinstance(dtype, pl.Datetime):
            return datetime.fromisoformat(text)
    except (KeyError, ValueError):
        raise ValueError(f"--where: column '{column}' ({dtype}) has no value '{text}'") from None
    return text
