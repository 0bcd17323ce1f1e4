"""Batch scoring: a Parquet file of (user, item) rows in, the same rows with click probability out.

Shape letters: M rows, N interactions.
"""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from dasrec.core.columns import US, ids, times
from dasrec.core.corpus import Corpus, Int64s
from dasrec.ranking.features.encode import context_columns
from dasrec.ranking.ranker import Ranker

log = logging.getLogger(__name__)

ADDED = ("logit", "probability")
REPORT_SECONDS = 10.0


class ScoreCounts(NamedTuple):
    """What was scored."""

    num_rows: int
    unknown_users: int
    """Rows of users that the corpus does not have."""
    unknown_items: int
    """Rows of items that it does not have."""
    seconds: float


def score_table(
    ranker: Ranker,
    corpus: Corpus,
    source: Path,
    target: Path,
    *,
    allow_unknown: bool = False,
    time_format: str = "seconds",
    batch_rows: int = 65_536,
) -> ScoreCounts:
    """Score every row of a Parquet file, in its order, a batch at a time.

    The file has `user_id` and `item_id` as the log calls them, the context columns of the model if
    it has any, and perhaps `timestamp`: the history is then what precedes it strictly, otherwise
    all that is known of the user. All columns are kept; `logit` (of the model) and `probability`
    (calibrated) are added.

    Args:
        ranker: the model.
        corpus: with the histories; of the ranker's training or a later one.
        source: the rows.
        target: Parquet file to write, whole or not at all; replaced where it exists.
        allow_unknown: score users and items that the corpus does not have as ones of which nothing
            is known.
        time_format: of `timestamp`: "seconds", "milliseconds", "iso" or a strptime format.
        batch_rows: rows in memory at a time.

    Raises:
        FileNotFoundError: no such file, or no folder to write to.
        ValueError: no Parquet, a missing column, one that would be written twice, no id, a time
            that is none, or an unknown user or item without `allow_unknown`. Nothing is written
            then.
    """
    began = time.perf_counter()
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target.parent}: no such folder to write {target.name} to")
    with _opened(source) as file:
        schema = file.schema_arrow
        _check_columns(schema.names, ranker, source)
        lookup = _Lookup(corpus, source, allow_unknown, time_format)
        scratch = target.with_name(f".{target.name}.{os.getpid()}")
        added = [pa.field(name, pa.float32()) for name in ADDED]
        try:
            with pq.ParquetWriter(scratch, pa.schema([*schema, *added])) as writer:
                for batch in _reported(file, batch_rows, began):
                    writer.write_table(_scored(ranker, lookup, batch))
            scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)
    return ScoreCounts(
        lookup.seen, lookup.unknown["user"], lookup.unknown["item"], time.perf_counter() - began
    )


class HistoryEnds:
    """Finds where a user's history ends at a point in time, all rows at once."""

    def __init__(self, corpus: Corpus) -> None:
        """Order the interactions by user and time."""
        self.start_U = np.asarray(corpus.user_start)
        self.times, rank_N = np.unique(corpus.timestamp, return_inverse=True)
        self.width = len(self.times) + 1
        place_N = corpus.user_idx.astype(np.int64) * self.width + rank_N
        # Where the log orders events against their times, none may follow a later one.
        self.place_N = np.maximum.accumulate(place_N)

    def latest(self, user_M: Int64s) -> Int64s:
        """(M,) ends of the whole histories; user_idx U is an unknown user, without any."""
        return np.asarray(self.start_U[np.minimum(user_M + 1, len(self.start_U) - 1)])

    def before(self, user_M: Int64s, timestamp_M: Int64s) -> Int64s:
        """(M,) ends of what lies strictly before these times (seconds)."""
        rank_M = np.searchsorted(self.times, timestamp_M, side="left")
        found = np.searchsorted(self.place_N, user_M * self.width + rank_M, side="left")
        return np.asarray(found, np.int64)


class _Lookup:
    """External ids and times to what the ranker is asked with."""

    def __init__(self, corpus: Corpus, source: Path, allow_unknown: bool, time_format: str) -> None:
        self.ends = HistoryEnds(corpus)
        self.ids = {
            "user": pl.Enum(corpus.users["user_id"].cast(pl.String)),
            "item": pl.Enum(corpus.items["item_id"].cast(pl.String)),
        }
        self.source, self.allow_unknown, self.time_format = source, allow_unknown, time_format
        self.seen = 0
        self.unknown = {"user": 0, "item": 0}

    def index(self, frame: pl.DataFrame, side: str) -> pl.Series:
        """Index of every row's user or item, null where it is unknown."""
        name = f"{side}_id"
        text = ids(frame, name, self.where)
        found = text.cast(self.ids[side], strict=False).to_physical().cast(pl.Int64)
        missing = found.is_null()
        if missing.any() and not self.allow_unknown:
            row = int(missing.arg_max() or 0)
            raise ValueError(
                f"{self.source}: row {self.seen + row + 1}: {name} '{text[row]}' is not in the "
                "corpus; leave such rows out, or allow unknown ones, which are scored as cold"
            )
        self.unknown[side] += int(missing.sum())
        return found

    def history_end(self, frame: pl.DataFrame, user_M: Int64s) -> Int64s:
        """End of every row's history."""
        if "timestamp" not in frame.columns:
            return self.ends.latest(user_M)
        return self.ends.before(user_M, self.seconds(frame))

    def seconds(self, frame: pl.DataFrame) -> Int64s:
        """Every row's time."""
        moment = times(frame, "timestamp", self.time_format, self.where)
        return (moment // US).to_numpy().astype(np.int64)

    @property
    def where(self) -> str:
        """Start of messages about the batch."""
        return f"{self.source}: rows from {self.seen + 1}"


def _opened(source: Path) -> pq.ParquetFile:
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such file")
    try:
        return pq.ParquetFile(source)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{source}: not a Parquet file ({error})") from None


def _check_columns(names: list[str], ranker: Ranker, source: Path) -> None:
    wanted = [name for name in context_columns(ranker.model.schema) if name != "timestamp"]
    for name in ("user_id", "item_id", *wanted):
        if name not in names:
            use = "" if name.endswith("_id") else " of the impressions the model was trained on"
            raise ValueError(
                f"{source}: no column '{name}'{use}; it has {', '.join(names)}. Add it"
                + (" (null = not known)" if use else "")
            )
    for name in ADDED:
        if name in names:
            raise ValueError(f"{source}: has a column '{name}', which scoring adds; rename it")


def _reported(file: pq.ParquetFile, batch_rows: int, began: float) -> Iterator[pa.RecordBatch]:
    """The batches; says now and then how far it is."""
    done, told = 0, began
    for batch in file.iter_batches(batch_rows):
        yield batch
        done += len(batch)
        if time.perf_counter() - told > REPORT_SECONDS:
            told = time.perf_counter()
            log.info(
                "score: %d of %d rows, %.0f rows/s",
                done,
                file.metadata.num_rows,
                done / (told - began),
            )


def _scored(ranker: Ranker, lookup: _Lookup, batch: pa.RecordBatch) -> pa.Table:
    table = pa.Table.from_batches([batch])
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    num_users = len(lookup.ends.start_U) - 1
    user_M = lookup.index(frame, "user").fill_null(num_users).to_numpy()
    item_M = lookup.index(frame, "item").fill_null(-1).to_numpy()
    end_M = lookup.history_end(frame, user_M)
    logit = ranker.score(user_M, item_M, end_M, context=_context(ranker, lookup, frame))
    lookup.seen += len(frame)
    for name, values in zip(ADDED, (logit, ranker.probability(logit)), strict=True):
        table = table.append_column(
            pa.field(name, pa.float32()), pa.array(values.astype(np.float32))
        )
    return table


def _context(ranker: Ranker, lookup: _Lookup, frame: pl.DataFrame) -> pl.DataFrame | None:
    """The model's context columns, if any; hour and weekday are missing where there is no time."""
    wanted = context_columns(ranker.model.schema)
    columns = [frame[name] for name in wanted if name != "timestamp"]
    if "timestamp" in wanted:
        known = "timestamp" in frame.columns
        values = lookup.seconds(frame) if known else [None] * len(frame)
        columns.append(pl.Series("timestamp", values, pl.Int64))
    return pl.DataFrame(columns) if columns else None
