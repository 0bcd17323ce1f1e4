"""Raw tables in one checked form: the log, and the tables of items and users."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dasrec.core import columns
from dasrec.core.corpus import SPLITS
from dasrec.core.readers import TableConfig, find_file, read_table

REQUIRED = ("user_id", "item_id", "timestamp")
OPTIONAL = ("label", "order", "split")
"""Columns of the log; the optional ones are read only when they are mapped."""


CONTEXT = "context."
"""Prefix of the columns of the log that are kept for the impressions."""


def read_log(
    table: TableConfig,
    data_dir: Path,
    positive_label: float | None,
    parts: Mapping[Any, int] = SPLITS,
) -> pl.DataFrame:
    """Read and check the log.

    Args:
        table: where it is.
        data_dir: what its path is relative to.
        positive_label: rows with a label >= this are positive; None: every row is.
        parts: number of each value of a mapped split column.

    Returns:
        row (in the file, from 0), user_id and item_id (Enum of the sorted ids), time_us, key
        (what orders a user's events: the order column, else seconds), positive, split (int8) if
        one is mapped, and the columns of `table.keep` behind the prefix CONTEXT.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a bad value, naming file, row and column.
    """
    where = str(find_file(table, data_dir))
    wanted = (*REQUIRED, *(name for name in OPTIONAL if name in table.columns))
    names = {name: table.columns.get(name, name) for name in wanted}
    raw = read_table(table, data_dir, wanted).rename(names)  # messages say the file's names
    time_us = columns.times(raw, names["timestamp"], table.time, where)
    log = {
        "row": pl.Series(np.arange(len(raw))),
        "user_id": _enum(columns.ids(raw, names["user_id"], where)),
        "item_id": _enum(columns.ids(raw, names["item_id"], where)),
        "time_us": time_us,
        "key": time_us // columns.US,
        "positive": pl.repeat(True, len(raw), eager=True),
    }
    if "order" in names:
        log["key"] = columns.numbers(raw, names["order"], where)
    if positive_label is not None:
        log["positive"] = columns.numbers(raw, names["label"], where) >= positive_label
    if "split" in names:
        log["split"] = columns.choices(raw, names["split"], parts, where)
    return pl.DataFrame(log | {CONTEXT + name: raw[name] for name in table.keep or ()})


def read_entities(
    table: TableConfig, key: str, data_dir: Path, *, keep_first: bool
) -> pl.DataFrame:
    """Read the table of items or users.

    Args:
        table: where it is.
        key: "item_id" or "user_id".
        data_dir: what its path is relative to.
        keep_first: whether to keep the first of the rows of one id instead of refusing them.

    Returns:
        `key` as text, unique, `source_row` (in the file, from 0), and the other columns.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a missing column, a missing id, or one id in two rows.
    """
    where = str(find_file(table, data_dir))
    mapped = table.model_copy(update={"columns": {key: key} | table.columns})
    frame = read_table(mapped, data_dir)
    theirs = mapped.columns[key]
    ids = columns.ids(frame.select(pl.col(key).alias(theirs)), theirs, where)
    repeated = ~ids.is_first_distinct()
    if repeated.any() and not keep_first:
        row = int(repeated.arg_max() or 0)
        first = int((ids == ids[row]).arg_max() or 0) + 1
        what = f"the id of row {first} again"
        columns.refuse_row(where, row, theirs, what, ids[row], "keep one, or set repeated_ids")
    features = frame.drop(key, "source_row", strict=False)
    rows = pl.Series("source_row", np.arange(len(frame), dtype=np.int64))
    return pl.DataFrame([ids.alias(key), rows, *features]).filter(~repeated)


def _enum(ids: pl.Series) -> pl.Series:
    """Ids as an Enum: what follows compares and sorts integers instead of text."""
    return ids.cast(pl.Enum(ids.unique().sort()))


def look_up(log: pl.DataFrame, key: str, table: pl.DataFrame) -> pl.Series:
    """Row of `table` (with a text column `key`) for each row of the log; null where it is not."""
    dtype = log.schema[key]
    assert isinstance(dtype, pl.Enum)
    distinct = dtype.categories.alias(key).to_frame()
    rows = table.select(key, pl.int_range(pl.len(), dtype=pl.Int64).alias("found"))
    found = distinct.join(rows, on=key, how="left", maintain_order="left")["found"]
    return found.gather(log[key].to_physical())


def refuse_unknown(
    log: pl.DataFrame,
    known: pl.Series,
    key: str,
    log_table: TableConfig,
    table: TableConfig,
    data_dir: Path,
) -> None:
    """Refuse a log row whose `key` is not in the table of items or users.

    Raises:
        ValueError: naming the first such row.
    """
    if known.all():
        return
    bad = log.row(int(known.arg_min() or 0), named=True)
    columns.refuse_row(
        str(find_file(log_table, data_dir)),
        bad["row"],
        log_table.columns.get(key, key),
        f"not in {find_file(table, data_dir).name}",
        bad[key],
        "add it there, or set unknown_ids: drop",
    )
