"""Events by index, in order: interactions, and impressions with their split and history.

Shape letters: N interactions, M impressions, U users, I items.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from dasrec.core.columns import US
from dasrec.core.corpus import SPLITS, Impressions, take_rows
from dasrec.core.split import Cuts, split_global_time
from dasrec.core.tables import CONTEXT, look_up

Ints = npt.NDArray[np.int64]
Int8s = npt.NDArray[np.int8]


class Events(NamedTuple):
    """Rows of the log by index, sorted by user, key, time and row in the file."""

    user: Ints
    item: Ints
    timestamp: Ints
    """Seconds."""
    key: npt.NDArray[Any]
    """What orders a user's events: the `order` column, else the timestamp."""
    positive: npt.NDArray[np.bool_]
    split: Int8s | None
    """As given in the log."""
    context: pl.DataFrame
    """The log's kept columns under their own names; no columns = none kept."""

    def take(self, rows: npt.NDArray[np.bool_] | Ints) -> "Events":
        """Some rows of every column."""
        return Events(
            self.user[rows],
            self.item[rows],
            self.timestamp[rows],
            self.key[rows],
            self.positive[rows],
            None if self.split is None else self.split[rows],
            take_rows(self.context, rows),
        )


def index_events(log: pl.DataFrame, users: pl.DataFrame, items: pl.DataFrame) -> Events:
    """Replace ids by row numbers of the tables; rows of other users or items are left out."""
    log = log.with_columns(
        look_up(log, "user_id", users).alias("user"), look_up(log, "item_id", items).alias("item")
    )
    log = log.drop_nulls(["user", "item"]).sort("user", "key", "time_us", "row")
    return Events(
        log["user"].to_numpy(),
        log["item"].to_numpy(),
        (log["time_us"] // US).to_numpy(),
        log["key"].to_numpy(),
        log["positive"].to_numpy(),
        log["split"].to_numpy() if "split" in log.columns else None,
        log.select(
            pl.col(name).alias(name.removeprefix(CONTEXT))
            for name in log.columns
            if name.startswith(CONTEXT)
        ),
    )


def ranks(interactions: Events, exposures: Events) -> tuple[Ints, Ints, int]:
    """Dense ranks (N,) and (M,) of the keys of both, and their number."""
    keys = np.concatenate([interactions.key, exposures.key])
    distinct, rank = np.unique(keys, return_inverse=True)
    rank = rank.astype(np.int64)
    return rank[: len(interactions.key)], rank[len(interactions.key) :], len(distinct)


def make_impressions(
    interactions: Events, exposures: Events, split_N: Int8s, num_users: int, cuts: Cuts | None
) -> Impressions:
    """Impressions with their split and the end of their history.

    An interaction is in an impression's history only if its key is strictly smaller: never the
    impression's own event, nor one that is not known to lie before it.

    Args:
        interactions: the positive events.
        exposures: all labelled events.
        split_N: split of the interactions.
        num_users: U.
        cuts: of a global split. None: the split of the log if it has one, else that of
            leave-one-out: valid from the user's valid target on, test from the test target on.
    """
    rank_N, rank_M, width = ranks(interactions, exposures)
    # One sorted number for (user, key), so that all users are searched at once
    place_N, place_M = interactions.user * width + rank_N, exposures.user * width + rank_M
    history_end = np.searchsorted(place_N, place_M, side="left")
    if cuts is not None:
        split_M = split_global_time(exposures.user, exposures.timestamp, cuts)
    elif exposures.split is not None:
        split_M = exposures.split
    else:
        split_M = np.zeros(len(rank_M), dtype=np.int8)
        for name in ("valid", "test"):
            rows = np.flatnonzero(split_N == SPLITS[name])
            target_U = np.full(num_users, width)  # without a target: never reached
            target_U[interactions.user[rows]] = rank_N[rows]
            split_M[rank_M >= target_U[exposures.user]] = SPLITS[name]
    return Impressions(
        exposures.user.astype(np.int32),
        exposures.item.astype(np.int32),
        exposures.timestamp,
        exposures.positive.astype(np.float32),
        split_M,
        history_end.astype(np.int64),
        exposures.context,
    )


def num_seeing_themselves(interactions: Events, impressions: Impressions) -> int:
    """Impressions with an interaction of the same user, item and second in their history.

    Most are copies that a log holds of one event: the earlier copy, which is in the history when it
    is positive, has the label of the later one. With an `order` a history ends at a place and not
    at a moment, so that it does not stop at the copy.
    """
    key = ("user", "item", "timestamp")

    def frame(columns: Any, **more: npt.NDArray[Any]) -> pl.DataFrame:
        return pl.DataFrame(dict(zip(key, columns, strict=True)) | more).cast(pl.Int64)

    rows = np.arange(len(interactions.user))
    first = frame(interactions[:3], row=rows).group_by(key).agg(pl.col("row").min())
    asked = frame(impressions[:3], end=impressions.history_end)
    return asked.join(first, on=key).filter(pl.col("row") < pl.col("end")).height


def describe(
    events: Events,
    user_start: Ints,
    split_N: Int8s,
    num_items: int,
    impressions: Impressions | None,
) -> dict[str, Any]:
    """Counts for the manifest.

    `same_day_share` is the share of the queries whose target falls on the UTC day of the event
    before it, where the order of day-stamped logs is arbitrary (`Corpus.tie_free`).
    """
    train_count = np.bincount(events.item[split_N == SPLITS["train"]], minlength=num_items)
    day = events.timestamp // 86_400
    queries, same_day = {}, {}
    for name in ("valid", "test"):
        rows = np.flatnonzero(split_N == SPLITS[name])
        rows = rows[rows > user_start[events.user[rows]]]
        queries[name] = len(rows)
        same_day[name] = round(float((day[rows] <= day[rows - 1]).sum()) / max(len(rows), 1), 4)
    counts: dict[str, Any] = {
        "users": len(user_start) - 1,
        "items": num_items,
        "interactions": len(events.user),
        "cold_items": int((train_count == 0).sum()),
        "queries": queries,
        "same_day_share": same_day,
    }
    if impressions is not None:
        counts["impressions"] = len(impressions.label)
        counts["positive_share"] = round(float(impressions.label.mean()), 4)
    return counts
