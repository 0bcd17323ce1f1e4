"""The Corpus artifact: who interacted with what, when, and in which split.

Shape letters: N interactions, U users, I items, Q queries, M impressions.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from dasrec.core.artifacts import Manifest, load_manifest

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]

Split = Literal["train", "valid", "test"]
COLUMNS = ("user_idx", "item_idx", "timestamp", "split", "user_start")

SPLITS: dict[Split, int] = {"train": 0, "valid": 1, "test": 2}
"""Value of the split columns."""


ExcludeSeen = Literal["never", "always", "as_in_training"]
"""Whether lists leave out what the user had before the query; `as_in_training` does so if no user
has the same item twice in the training interactions."""


class Ragged(NamedTuple):
    """Rows of different lengths in one flat array."""

    values: Int32s
    """(total,) all rows, one after the other."""

    starts: Int64s
    """(rows + 1,) row r is `values[starts[r]:starts[r + 1]]`."""


class Impressions(NamedTuple):
    """Labelled exposures, for ranking; sorted by user and order in time."""

    user_idx: Int32s
    item_idx: Int32s
    timestamp: Int64s
    label: npt.NDArray[np.float32]
    split: npt.NDArray[np.int8]
    history_end: Int64s
    """(M,) the user's history before the exposure is `interactions[user_start[u]:history_end]`."""
    context: pl.DataFrame = pl.DataFrame()
    """(M rows) further columns of the log; no columns where it has none."""

    def take(self, rows: npt.NDArray[np.bool_] | Int64s) -> "Impressions":
        """Some rows of every column."""
        arrays: dict[str, Any] = {name: getattr(self, name)[rows] for name in _IMPRESSION_ARRAYS}
        return Impressions(**arrays, context=take_rows(self.context, rows))


_IMPRESSION_ARRAYS = tuple(name for name in Impressions._fields if name != "context")


def take_rows(frame: pl.DataFrame, rows: npt.NDArray[np.bool_] | Int64s) -> pl.DataFrame:
    """Some rows of a frame, which may have no columns (and then no rows either)."""
    return frame[np.arange(len(frame))[rows]] if frame.width else frame


@dataclass(frozen=True)
class Corpus:
    """Interactions (positive events) sorted by user and order in time, memory-mapped."""

    path: Path
    manifest: Manifest
    user_idx: Int32s
    """(N,)"""
    item_idx: Int32s
    """(N,)"""
    timestamp: Int64s
    """(N,) seconds UTC."""
    split: npt.NDArray[np.int8]
    """(N,) 0 train, 1 valid, 2 test."""
    user_start: Int64s
    """(U + 1,) interactions of user u are rows `user_start[u]:user_start[u + 1]`."""
    impressions: Impressions | None
    """Labelled exposures, where the log has them."""

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.user_start) - 1

    @cached_property
    def num_items(self) -> int:
        """I, the whole catalogue, items without interactions included."""
        return int(json.loads((self.path / "sizes.json").read_text())["num_items"])

    @cached_property
    def items(self) -> pl.DataFrame:
        """Row i = item_idx i: `item_id` (external) and its features and text columns."""
        return pl.read_parquet(self.path / "items.parquet")

    @cached_property
    def users(self) -> pl.DataFrame:
        """Row u = user_idx u: `user_id` (external) and its features."""
        return pl.read_parquet(self.path / "users.parquet")

    @cached_property
    def train_rows(self) -> Int64s:
        """Rows of the training interactions. The only rows a learned thing may see."""
        return np.flatnonzero(self.split == SPLITS["train"])

    @cached_property
    def train_item_count(self) -> Int64s:
        """(I,) training interactions of each item; 0 = cold."""
        return np.bincount(self.item_idx[self.train_rows], minlength=self.num_items)

    @cached_property
    def train_repeats(self) -> bool:
        """Whether any user has an item twice in the training interactions."""
        rows = self.train_rows
        pairs = self.user_idx[rows].astype(np.int64) * self.num_items + self.item_idx[rows]
        return len(np.unique(pairs)) < len(pairs)

    @cached_property
    def train_sequences(self) -> Ragged:
        """(U rows) item_idx of every user's training interactions, in order."""
        counts = np.bincount(self.user_idx[self.train_rows], minlength=self.num_users)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Ragged(np.ascontiguousarray(self.item_idx[self.train_rows]), starts)

    def queries(self, split: Split) -> Int64s:
        """Rows of `split` to be predicted: those with at least one earlier event of the user.

        A query is named by the row of its target: row r asks for `item_idx[r]`, given the user's
        rows `user_start[u]:r`. Sorted ascending.
        """
        rows = np.flatnonzero(self.split == SPLITS[split])
        return rows[rows > self.user_start[self.user_idx[rows]]]

    def histories(self, queries: Int64s, max_length: int) -> Ragged:
        """Item indices before each query, oldest first, the last `max_length` of them."""
        first = self.user_start[self.user_idx[queries]]
        return self._slices(np.maximum(first, queries - max_length), queries)

    def impression_histories(self, rows: Int64s, max_length: int) -> Ragged:
        """Item indices before each impression (by row of `impressions`), oldest first."""
        assert self.impressions is not None
        end = self.impressions.history_end[rows]
        first = self.user_start[self.impressions.user_idx[rows]]
        return self._slices(np.maximum(first, end - max_length), end)

    def excludes_seen(self, rule: ExcludeSeen) -> bool:
        """Whether `rule` leaves seen items out of lists for this corpus."""
        return rule == "always" or (rule == "as_in_training" and not self.train_repeats)

    def _slices(self, first: Int64s, end: Int64s) -> Ragged:
        lengths = end - first
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        flat = np.arange(starts[-1]) + np.repeat(first - starts[:-1], lengths)
        return Ragged(self.item_idx[flat], starts)

    def tie_free(self, queries: Int64s) -> npt.NDArray[np.bool_]:
        """(Q,) whether the target falls on a later UTC day than the event before it.

        Within a day the order of some public logs is an artefact of their files (Amazon 2014).
        """
        days = self.timestamp // 86_400
        return np.asarray(days[queries] > days[queries - 1])


def load_corpus(path: str | Path) -> Corpus:
    """Open a Corpus artifact, arrays memory-mapped."""
    path = Path(path)
    manifest = load_manifest(path, "corpus")

    def column(name: str) -> Any:
        return np.load(path / f"{name}.npy", mmap_mode="r")

    impressions = None
    if (path / "impressions.user_idx.npy").exists():
        arrays = {name: column(f"impressions.{name}") for name in _IMPRESSION_ARRAYS}
        context = path / "impressions.context.parquet"
        impressions = Impressions(
            **arrays, context=pl.read_parquet(context) if context.exists() else pl.DataFrame()
        )
    return Corpus(
        path=path,
        manifest=manifest,
        **{name: column(name) for name in COLUMNS},
        impressions=impressions,
    )


def save_corpus_payload(
    path: Path,
    *,
    user_idx: Int32s,
    item_idx: Int32s,
    timestamp: Int64s,
    split: npt.NDArray[np.int8],
    users: pl.DataFrame,
    items: pl.DataFrame,
    impressions: Impressions | None,
) -> None:
    """Write the payload of a Corpus; interactions must be sorted by user and order in time.

    Raises:
        ValueError: unsorted users, or an index outside the tables.
    """
    num_users, num_items = len(users), len(items)
    if len(user_idx) and (np.diff(user_idx) < 0).any():
        raise ValueError("interactions are not sorted by user_idx")
    for name, index, size in (("user_idx", user_idx, num_users), ("item_idx", item_idx, num_items)):
        if len(index) and (index.min() < 0 or index.max() >= size):
            raise ValueError(f"{name} outside 0..{size - 1}")
    user_start = np.searchsorted(user_idx, np.arange(num_users + 1)).astype(np.int64)
    columns: dict[str, Any] = {
        "user_idx": user_idx.astype(np.int32),
        "item_idx": item_idx.astype(np.int32),
        "timestamp": timestamp.astype(np.int64),
        "split": split.astype(np.int8),
        "user_start": user_start,
    }
    if impressions is not None:
        columns |= {f"impressions.{k}": getattr(impressions, k) for k in _IMPRESSION_ARRAYS}
        if impressions.context.width:
            impressions.context.write_parquet(path / "impressions.context.parquet")
    for name, values in columns.items():
        np.save(path / f"{name}.npy", values)
    users.write_parquet(path / "users.parquet")
    items.write_parquet(path / "items.parquet")
    (path / "sizes.json").write_text(json.dumps({"num_users": num_users, "num_items": num_items}))
