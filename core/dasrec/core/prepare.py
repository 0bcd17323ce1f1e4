"""Stage `prepare`: raw tables -> Corpus.

Log rows with a label >= `positive_label` (all rows of a log without labels) are interactions; the
labelled rows, both kinds, are the impressions of the ranking stage.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import model_validator

from dasrec.core.artifacts import Manifest, check_free, file_sha256, write_artifact
from dasrec.core.cold import draw_cold, drop_cold_impressions, drop_cold_training
from dasrec.core.config import StageConfig
from dasrec.core.corpus import Corpus, Impressions, load_corpus, save_corpus_payload
from dasrec.core.events import (
    Events,
    describe,
    index_events,
    make_impressions,
    num_seeing_themselves,
)
from dasrec.core.filters import drop_repeats, k_core
from dasrec.core.presets import PRESETS
from dasrec.core.readers import TableConfig, find_file
from dasrec.core.seeding import generator
from dasrec.core.split import SplitConfig, global_cuts, split_interactions
from dasrec.core.tables import OPTIONAL, REQUIRED, look_up, read_entities, read_log, refuse_unknown

logger = logging.getLogger(__name__)


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
    """Repeats of one (user, item, timestamp): keep the first in order, or all."""

    unknown_ids: Literal["error", "drop"] = "error"
    """Log rows whose item or user is not in the items or users table."""

    repeated_ids: Literal["error", "first"] = "error"
    """Several rows of one id in the items or users table: refuse, or keep the first."""

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
        if unknown := set(self.interactions.columns) - {*REQUIRED, *OPTIONAL}:
            raise ValueError(
                f"interactions.columns: known are {', '.join((*REQUIRED, *OPTIONAL))}, "
                f"got {', '.join(sorted(unknown))}"
            )
        keep = self.interactions.keep or ()
        if keep and self.positive_label is None:
            raise ValueError(
                f"interactions.keep: columns of labelled impressions, got {', '.join(keep)} but no "
                "positive_label; give it, or remove keep"
            )
        taken = {*REQUIRED, *OPTIONAL, *self.interactions.columns.values()}
        if reserved := [name for name in keep if name in taken]:
            raise ValueError(
                f"interactions.keep: {', '.join(reserved)} is read for another purpose already; "
                "remove it, or write it to the file under another name too"
            )
        if ("split" in self.interactions.columns) != (self.split.method == "column"):
            raise ValueError(
                "interactions.columns.split and split.method: column belong together, "
                f"got method {self.split.method} and columns {self.interactions.columns}"
            )
        if self.positive_label is not None and self.split.method == "sliding_window":
            raise ValueError(
                "split.method: sliding_window counts targets and has no rule for impressions, got "
                "a positive_label; use global_time"
            )
        return self


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` updated by `over`, sections merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, StageConfig):
            value = value.model_dump(exclude_unset=True)
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        elif value is None and isinstance(merged.get(key), str):
            del merged[key]  # `columns: {label: null}` takes a preset's mapping away
        else:
            merged[key] = value
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
    check_free(out, replace)
    raw = describe_raw(config, data_dir)
    dropped: dict[str, int] = {}
    log, users, items = _read(config, data_dir, dropped)
    positive, kept = _filter(config, log, find_file(config.interactions, data_dir), dropped)
    catalogue = _catalogue(config, log, positive, kept, items)
    users = _number("user_id", kept["user_id"], users, seed)
    items = _number("item_id", catalogue, items, seed)

    events = index_events(kept, users, items)
    user_start = np.searchsorted(events.user, np.arange(len(users) + 1)).astype(np.int64)
    cuts = global_cuts(config.split, events.timestamp)
    split = split_interactions(
        config.split, events.user, events.timestamp, user_start, cuts, events.split
    )
    cold = draw_cold(config.split.cold_items, len(items), seed)
    if cold is not None:
        events, split = drop_cold_training(events, split, cold)
        user_start = np.searchsorted(events.user, np.arange(len(users) + 1)).astype(np.int64)
    impressions = None
    if config.positive_label is not None:
        exposures = index_events(log, users, items)
        dropped["impressions"] = len(log) - len(exposures.user)
        impressions = make_impressions(events, exposures, split, len(users), cuts)
        if cold is not None:
            impressions = drop_cold_impressions(impressions, cold)
        _warn_of_copies(events, impressions)
    metrics = describe(events, user_start, split, len(items), impressions) | {"dropped": dropped}
    logger.info("prepare: %s", metrics)

    def payload(path: Path) -> None:
        save_corpus_payload(
            path,
            user_idx=events.user.astype(np.int32),
            item_idx=events.item.astype(np.int32),
            timestamp=events.timestamp,
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


def _warn_of_copies(events: Events, impressions: Impressions) -> None:
    copies = num_seeing_themselves(events, impressions)
    if copies:
        logger.warning(
            "prepare: %d of %d impressions have a positive event of their own user, item and "
            "second in their history. If these are copies of one event, they give labels away, of "
            "valid and test rows too: use prepare.duplicates: drop",
            copies,
            len(impressions.label),
        )


def _read(
    config: PrepareConfig, data_dir: Path, dropped: dict[str, int]
) -> tuple[pl.DataFrame, pl.DataFrame | None, pl.DataFrame | None]:
    """The log without repeats and unknown ids, and the tables of users and items."""
    log = read_log(config.interactions, data_dir, config.positive_label, config.split.parts)
    keep_first = config.repeated_ids == "first"
    entities: dict[str, pl.DataFrame] = {}
    for key, table in (("user_id", config.users), ("item_id", config.items)):
        if table is None:
            continue
        entities[key] = found = read_entities(table, key, data_dir, keep_first=keep_first)
        known = look_up(log, key, found).is_not_null()
        if config.unknown_ids == "error":
            refuse_unknown(log, known, key, config.interactions, table, data_dir)
        dropped[f"unknown_{key}"] = int((~known).sum())
        log = log.filter(known)
    if config.duplicates == "drop":
        distinct = drop_repeats(log)
        dropped["duplicates"] = len(log) - len(distinct)
        log = distinct
    return log, entities.get("user_id"), entities.get("item_id")


def _filter(
    config: PrepareConfig, log: pl.DataFrame, path: Path, dropped: dict[str, int]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The positive rows, and those of them in the k-core."""
    positive = log.filter("positive")
    codes = positive.select(pl.col("user_id", "item_id").to_physical().cast(pl.Int64))
    core = k_core(
        codes["user_id"].to_numpy(),
        codes["item_id"].to_numpy(),
        config.min_user_interactions,
        config.min_item_interactions,
    )
    kept = positive.filter(pl.Series(core))
    dropped["k_core"] = len(positive) - len(kept)
    if kept.is_empty():
        raise ValueError(
            f"{path}: no interactions are left of {len(log)} rows ({len(positive)} positive) "
            "after filtering; lower min_user_interactions, min_item_interactions or positive_label"
        )
    return positive, kept


def _catalogue(
    config: PrepareConfig,
    log: pl.DataFrame,
    positive: pl.DataFrame,
    kept: pl.DataFrame,
    items: pl.DataFrame | None,
) -> pl.Series:
    """Ids of the items of the corpus."""
    if config.catalogue == "seen":
        return kept["item_id"]
    if items is not None:
        return items["item_id"]
    removed = positive.join(kept, on="item_id", how="anti")
    return log.join(removed, on="item_id", how="anti")["item_id"]


def _number(key: str, ids: pl.Series, table: pl.DataFrame | None, seed: int) -> pl.DataFrame:
    """The table of the distinct `ids`; its row numbers are the indices."""
    ordered = ids.unique().cast(pl.String).sort()
    permutation = generator(seed, "prepare", key).permutation(len(ordered))
    numbered = pl.DataFrame({key: ordered[permutation]})
    if table is None:
        return numbered.with_columns(pl.lit(-1, dtype=pl.Int64).alias("source_row"))
    return numbered.join(table, on=key, how="left", maintain_order="left")
