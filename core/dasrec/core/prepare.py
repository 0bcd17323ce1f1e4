"""Stage `prepare`: raw tables -> Corpus.

Log rows with a label >= `positive_label` (all rows of a log without labels) are interactions; the
labelled rows, both kinds, are the impressions of the ranking stage.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import model_validator

from dasrec.core import columns
from dasrec.core.artifacts import Manifest, file_sha256, write_artifact
from dasrec.core.config import StageConfig
from dasrec.core.corpus import SPLITS, Corpus, Impressions, load_corpus, save_corpus_payload
from dasrec.core.filters import first_of_repeats, k_core
from dasrec.core.presets import PRESETS
from dasrec.core.readers import TableConfig, find_file, read_table
from dasrec.core.seeding import generator
from dasrec.core.split import (
    Cuts,
    SplitConfig,
    global_cuts,
    split_global_time,
    split_leave_one_out,
)

logger = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]
Int8s = npt.NDArray[np.int8]


class PrepareConfig(StageConfig):
    """What the raw data is and how it becomes a corpus."""

    preset: str | None = None
    """Take the values of `dasrec.core.presets.PRESETS`; keys written beside it win."""

    interactions: TableConfig = TableConfig(path="interactions.parquet")
    """The log. Needs user_id, item_id, timestamp; `label` and `order` only when mapped. `order`
    (a number) is the place in the user's sequence and wins over the timestamp."""

    items: TableConfig | None = None
    """The catalogue: item_id and any features. Without it the catalogue is the log's items."""

    users: TableConfig | None = None
    """user_id and any features. Users that are in no kept interaction are left out."""

    positive_label: float | None = None
    """With a mapped `label`: rows with label >= this are positive. Impressions hold 0 or 1."""

    duplicates: Literal["drop", "keep"] = "drop"
    """Repeats of one (user, item, timestamp): keep the first in the file, or all."""

    unknown_ids: Literal["error", "drop"] = "error"
    """Log rows whose item or user is not in the items or users table."""

    min_user_interactions: int = 0
    """Positive interactions every user must keep (k-core, iterated with the next)."""

    min_item_interactions: int = 0
    """Positive interactions every item must keep."""

    catalogue: Literal["all", "seen"] = "all"
    """`all`: items of the items table stay without any interaction (cold); without a table, items
    of the log other than those the k-core removed. `seen`: items of kept interactions."""

    split: SplitConfig = SplitConfig()
    """Train, valid, test."""

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        name = values.get("preset") if isinstance(values, Mapping) else None
        if not isinstance(name, str):
            return values
        if name not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got '{name}'")
        return _merge(PRESETS[name], values)

    @model_validator(mode="after")
    def _check(self) -> "PrepareConfig":
        if ("label" in self.interactions.columns) != (self.positive_label is not None):
            raise ValueError(
                "positive_label and interactions.columns.label belong together: give both or "
                f"neither, got positive_label {self.positive_label} and columns "
                f"{self.interactions.columns}"
            )
        unknown = set(self.interactions.columns) - {*_REQUIRED, "label", "order"}
        if unknown:
            raise ValueError(
                f"interactions.columns: unknown {sorted(unknown)}; known: "
                f"{', '.join(_REQUIRED)}, label, order"
            )
        return self


_REQUIRED = ("user_id", "item_id", "timestamp")


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` updated by `over`, sections merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, StageConfig):
            value = value.model_dump(exclude_unset=True)
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def describe_raw(config: PrepareConfig, data_dir: Path) -> Manifest:
    """A manifest of the raw files, as if they were an artifact: the input of a Corpus.

    Raises:
        FileNotFoundError: a file is missing.
    """
    tables = [config.interactions, config.items, config.users]
    paths = [find_file(table, data_dir) for table in tables if table is not None]
    files = {p.relative_to(data_dir).as_posix(): file_sha256(p) for p in paths}
    return Manifest(kind="raw", config={}, inputs={}, files=files)


def prepare(
    config: PrepareConfig, data_dir: Path, out: Path, *, seed: int = 0, replace: bool = False
) -> Corpus:
    """Read, check, filter, number, split and write.

    Items and users are numbered by a permutation that depends on the seed and on the set of ids
    only: an index says nothing about the order of a file (Amazon's files are sorted by ASIN).
    `items.parquet` and `users.parquet` keep the row of the raw table in `source_row` (from 0; -1
    without a table), so that a matrix aligned with the raw table can be reordered.

    Args:
        config: the section `prepare`.
        data_dir: what its paths are relative to.
        out: the artifact directory to write.
        seed: of the numbering.
        replace: swap an artifact that is already there for the new one.

    Raises:
        FileExistsError: `out` exists and `replace` is false.
        FileNotFoundError: a raw file is missing.
        ValueError: bad data, naming file, row and column; or nothing is left after filtering.
    """
    if out.exists() and not replace:
        raise FileExistsError(f"{out} exists; choose another --out or pass --replace")
    raw = describe_raw(config, data_dir)
    log = _read_log(config, data_dir)
    items = _read_entities(config.items, "item_id", data_dir)
    users = _read_entities(config.users, "user_id", data_dir)
    rows_read = len(log)
    log = _known_only(config, log, items, users, data_dir)
    dropped = {"unknown_ids": rows_read - len(log)}
    if config.duplicates == "drop":
        log = log.filter(pl.Series(first_of_repeats(log)))
    dropped["duplicates"] = rows_read - dropped["unknown_ids"] - len(log)

    positive = log.filter("positive")
    kept = positive.filter(pl.Series(_k_core(config, positive)))
    dropped["k_core"] = len(positive) - len(kept)
    if kept.is_empty():
        raise ValueError(
            f"{find_file(config.interactions, data_dir)}: nothing is left of {rows_read} rows "
            f"({len(positive)} positive) after filtering; lower min_user_interactions, "
            "min_item_interactions or positive_label"
        )
    users = _number("user_id", kept["user_id"], users, seed)
    items = _number("item_id", _catalogue(config, log, positive, kept, items), items, seed)
    interactions = _index(kept, users, items)
    user = interactions.user
    user_start = np.searchsorted(user, np.arange(len(users) + 1)).astype(np.int64)
    cuts = None
    if config.split.method == "global_time":
        cuts = global_cuts(config.split, interactions.timestamp)
        split = split_global_time(user, interactions.timestamp, cuts)
    else:
        split = split_leave_one_out(user_start)
    impressions = None
    if config.positive_label is not None:
        exposures = _index(log, users, items)
        dropped["impressions"] = len(log) - len(exposures.user)
        impressions = _impressions(interactions, exposures, user_start, split, cuts)
    metrics = _metrics(interactions, user_start, split, len(items), impressions)
    metrics |= {"rows_read": rows_read, "dropped": dropped}
    logger.info("prepare: %s", metrics)

    def payload(path: Path) -> None:
        save_corpus_payload(
            path,
            user_idx=user.astype(np.int32),
            item_idx=interactions.item.astype(np.int32),
            timestamp=interactions.timestamp,
            split=split,
            users=users,
            items=items,
            impressions=impressions,
        )

    write_artifact(
        out,
        "corpus",
        config.as_json(),
        {"raw": raw},
        payload,
        seed=seed,
        metrics=metrics,
        replace=replace,
    )
    return load_corpus(out)


def _read_log(config: PrepareConfig, data_dir: Path) -> pl.DataFrame:
    """row, user_id, item_id, time_us, key (order within a user) and positive of every row."""
    table = config.interactions
    where = str(find_file(table, data_dir))
    optional = tuple(name for name in ("label", "order") if name in table.columns)
    raw = read_table(table, data_dir, (*_REQUIRED, *optional))
    names = {name: table.columns.get(name, name) for name in (*_REQUIRED, *optional)}
    raw = raw.rename(names)  # back to the file's names: they are what messages must say
    log = pl.DataFrame(
        {
            "row": np.arange(len(raw)),
            "user_id": columns.ids(raw, names["user_id"], where),
            "item_id": columns.ids(raw, names["item_id"], where),
            "time_us": columns.times(raw, names["timestamp"], table.time, where),
        }
    )
    order = columns.numbers(raw, names["order"], where) if "order" in names else None
    log = log.with_columns(
        (pl.col("time_us") // columns.US if order is None else order).alias("key")
    )
    if config.positive_label is None:
        return log.with_columns(pl.lit(True).alias("positive"))
    label = columns.numbers(raw, names["label"], where)
    return log.with_columns((label >= config.positive_label).alias("positive"))


def _read_entities(table: TableConfig | None, key: str, data_dir: Path) -> pl.DataFrame | None:
    """The items or users table with `key` as text and `source_row`; ids unique."""
    if table is None:
        return None
    where = str(find_file(table, data_dir))
    frame = read_table(table, data_dir, None)
    theirs = table.columns.get(key, key)
    if key not in frame.columns:
        raise ValueError(f"{where}: no column '{key}'; map it: columns: {{{key}: NAME}}")
    ids = columns.ids(frame.select(pl.col(key).alias(theirs)), theirs, where)
    repeated = ids.is_first_distinct().not_()
    if repeated.any():
        row = int(repeated.arg_max() or 0)
        first = int((ids == ids[row]).arg_max() or 0) + 1
        columns.refuse_row(
            where, row, theirs, f"already in row {first}", ids[row], "keep one row for each id"
        )
    rest = frame.drop(key, "source_row", strict=False)
    rows = pl.Series("source_row", np.arange(len(frame), dtype=np.int64))
    return pl.DataFrame([ids.alias(key), rows, *rest])


def _known_only(
    config: PrepareConfig,
    log: pl.DataFrame,
    items: pl.DataFrame | None,
    users: pl.DataFrame | None,
    data_dir: Path,
) -> pl.DataFrame:
    for key, table in (("item_id", items), ("user_id", users)):
        if table is None:
            continue
        known = log[key].is_in(table[key].implode())
        if config.unknown_ids == "drop":
            log = log.filter(known)
        elif not known.all():
            bad = log.row(int(known.arg_min() or 0), named=True)
            source = config.items if key == "item_id" else config.users
            assert source is not None
            columns.refuse_row(
                str(find_file(config.interactions, data_dir)),
                bad["row"],
                config.interactions.columns.get(key, key),
                f"not in {find_file(source, data_dir).name}",
                bad[key],
                "add it there, or set unknown_ids: drop",
            )
    return log


def _k_core(config: PrepareConfig, log: pl.DataFrame) -> npt.NDArray[np.bool_]:
    codes = log.select(pl.col("user_id", "item_id").rank("dense") - 1)
    user, item = (codes[name].cast(pl.Int64).to_numpy() for name in codes.columns)
    return k_core(user, item, config.min_user_interactions, config.min_item_interactions)


def _catalogue(
    config: PrepareConfig,
    log: pl.DataFrame,
    positive: pl.DataFrame,
    kept: pl.DataFrame,
    items: pl.DataFrame | None,
) -> pl.Series:
    if config.catalogue == "seen":
        return kept["item_id"]
    if items is not None:
        return items["item_id"]
    removed = positive.join(kept, on="item_id", how="anti")
    return log.join(removed, on="item_id", how="anti")["item_id"]


def _number(key: str, ids: pl.Series, table: pl.DataFrame | None, seed: int) -> pl.DataFrame:
    """The table of the distinct `ids`; its row numbers are the indices."""
    ordered = ids.unique().sort()
    permutation = generator(seed, "prepare", key).permutation(len(ordered))
    numbered = pl.DataFrame({key: ordered[permutation]})
    if table is None:
        return numbered.with_columns(pl.lit(-1, dtype=pl.Int64).alias("source_row"))
    return numbered.join(table, on=key, how="left", maintain_order="left")


class _Events(NamedTuple):
    """Rows by index, sorted by user, then key, time and row in the file."""

    user: Ints
    item: Ints
    timestamp: Ints
    key: npt.NDArray[Any]
    positive: npt.NDArray[np.bool_]


def _index(log: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame) -> _Events:
    """Replace ids by indices, drop rows whose user or item is not in the tables, and sort."""
    for key, name, table in (("user_id", "user", users), ("item_id", "item", items)):
        index = table.select(key, pl.int_range(pl.len(), dtype=pl.Int64).alias(name))
        log = log.join(index, on=key, how="inner")
    log = log.sort("user", "key", "time_us", "row")
    return _Events(
        log["user"].to_numpy(),
        log["item"].to_numpy(),
        (log["time_us"] // columns.US).to_numpy(),
        log["key"].to_numpy(),
        log["positive"].to_numpy(),
    )


def _impressions(
    interactions: _Events, exposures: _Events, user_start: Ints, split: Int8s, cuts: Cuts | None
) -> Impressions:
    """Impressions with their split and the end of their history.

    `key` is what orders a user's events: the `order` column, else the timestamp. An interaction is
    in an impression's history only if its key is strictly smaller, so an impression never sees its
    own event, nor events that are not known to lie before it.
    """
    _, rank = np.unique(np.concatenate([interactions.key, exposures.key]), return_inverse=True)
    rank = rank.astype(np.int64)
    width = int(rank.max()) + 1
    rank_N, rank_M = rank[: len(interactions.key)], rank[len(interactions.key) :]
    history_end = np.searchsorted(
        interactions.user * width + rank_N, exposures.user * width + rank_M, side="left"
    )
    if cuts is not None:
        split_M = split_global_time(exposures.user, exposures.timestamp, cuts)
    else:
        # Rank of each user's valid and test target; users without targets are all train
        split_M = np.zeros(len(rank_M), dtype=np.int8)
        for name in ("valid", "test"):
            rows = np.flatnonzero(split == SPLITS[name])
            target_U = np.full(len(user_start) - 1, width, dtype=np.int64)
            target_U[interactions.user[rows]] = rank_N[rows]
            split_M[rank_M >= target_U[exposures.user]] = SPLITS[name]
    return Impressions(
        exposures.user.astype(np.int32),
        exposures.item.astype(np.int32),
        exposures.timestamp,
        exposures.positive.astype(np.float32),
        split_M,
        history_end.astype(np.int64),
    )


def _metrics(
    events: _Events,
    user_start: Ints,
    split: Int8s,
    num_items: int,
    impressions: Impressions | None,
) -> dict[str, Any]:
    train_count = np.bincount(events.item[split == SPLITS["train"]], minlength=num_items)
    queries, same_day = {}, {}
    for name in ("valid", "test"):
        rows = np.flatnonzero(split == SPLITS[name])
        rows = rows[rows > user_start[events.user[rows]]]
        days = events.timestamp // 86_400
        queries[name] = len(rows)
        ties = days[rows] <= days[rows - 1]  # as Corpus.tie_free
        same_day[name] = round(float(ties.mean()), 4) if len(rows) else 0.0
    metrics: dict[str, Any] = {
        "users": len(user_start) - 1,
        "items": num_items,
        "interactions": len(events.user),
        "cold_items": int((train_count == 0).sum()),
        "queries": queries,
        "same_day_share": same_day,
    }
    if impressions is not None:
        metrics["impressions"] = len(impressions.label)
        metrics["positive_share"] = round(float(impressions.label.mean()), 4)
    return metrics
