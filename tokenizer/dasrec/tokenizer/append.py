"""A later version of a SID table: published rows stay byte for byte, new rows stand beside them.

Rows are matched by external id. Rows that the corpus no longer has are retired: they keep their
SIDs, which nobody else gets, and have them again should they return.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl

from dasrec.core import SidTable

Ints = npt.NDArray[np.int64]


def match_ids(ids: pl.Series, wanted: pl.Series) -> Ints:
    """Row of each `wanted` id in `ids` (distinct), -1 where it is not there."""
    rows = pl.Series(np.arange(len(ids)), dtype=pl.Int64)
    return wanted.replace_strict(ids, rows, default=-1, return_dtype=pl.Int64).to_numpy()


def known_rows(published: SidTable, side: str) -> SidTable:
    """All rows that ever got a SID: those of the table, then the retired ones.

    Raises:
        ValueError: the table has no ids.
    """
    if published.ids is None:
        raise ValueError(
            f"assign: the published table of {side} has no ids (an earlier version of dasrec made "
            "it), so its rows cannot be recognised; assign it again first"
        )
    retired = published.retired
    if retired is None:
        return published
    assert retired.ids is not None
    return dataclasses.replace(
        published,
        codes=np.concatenate([published.codes, retired.codes]),
        vectors=np.concatenate([published.vectors, retired.vectors]),
        ids=pl.concat([published.ids.rename("id"), retired.ids.rename("id")]),
        retired=None,
    )


def append_rows(
    known: SidTable, learned: SidTable, resolve: Callable[[SidTable, Ints], SidTable]
) -> SidTable:
    """The next version of a table.

    Args:
        known: all rows that ever got a SID, see `known_rows`.
        learned: one row per row of the corpus: its id, and the codes that its content has now.
        resolve: applies the collision policy to the new rows, given as a table and by their row
            numbers in `learned`.
    """
    assert known.ids is not None
    assert learned.ids is not None
    at = match_ids(known.ids, learned.ids)
    new = np.flatnonzero(at < 0)
    added = resolve(take_rows(learned, new), new)
    codes, vectors = known.codes[at], known.vectors[at]  # of new rows: overwritten
    codes[new], vectors[new] = added.codes, added.vectors
    gone = np.setdiff1d(np.arange(len(known.codes)), at)
    return SidTable(
        codes,
        known.level_sizes,
        vectors,
        known.codebooks,
        learned.ids,
        dataclasses.replace(take_rows(known, gone), codebooks=()) if len(gone) else None,
    )


def take_rows(table: SidTable, rows: Ints) -> SidTable:
    """Some rows of a table."""
    return dataclasses.replace(
        table,
        codes=table.codes[rows],
        vectors=table.vectors[rows],
        ids=None if table.ids is None else table.ids.gather(rows),
        retired=None,
    )
