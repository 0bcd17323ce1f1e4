"""Words that stand for items: what intentions, preferences and reasons are made of.

A term is a word of the title or description, or the whole name of a brand or category. Terms are
catalogue content; which of them a user is said to like comes from training interactions.

Shape letters: I items, V terms, R rows, P pairs of a row and a term.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from dasrec.core import Corpus, Ragged
from dasrec.core.texts import ITEM_COLUMNS
from dasrec.generative.data.tokens import starts_of, take_rows

NAMES = ("brand", "category", "categories")
"""Columns whose values are terms as they stand, a path ("Hair > Combs", "Drama|War") one per part;
the other text columns are cut into words."""

PER_ITEM = 64
"""Terms per item at most."""

WORD = r"[\p{L}\p{N}][\p{L}\p{N}'&-]{2,}"
"""Words of three characters or more."""

FEWEST, MOST = 2, 5
"""Terms of an intention."""

PREFERENCES, REASONS = 8, 5
"""Terms of a user's preferences and of a reason."""


@dataclass(frozen=True)
class Terms:
    """The terms of every item."""

    names: pl.Series
    """(V,)"""
    of_items: Ragged
    """I rows of term numbers, each once, in the order of the item's text."""
    weight: npt.NDArray[np.float64]
    """(V,) log((1 + I) / (1 + items with the term)), 0 for a term of one item only: neither what
    every item has nor what no other has tells a taste."""

    def drawn(self, items: npt.NDArray[np.integer[Any]], seeds: npt.NDArray[np.uint64]) -> Ragged:
        """Two to five terms of each item, drawn by the row's seed, in the order of its text."""
        found = take_rows(self.of_items, items)
        row = _rows(found)
        place = np.arange(len(row)) - found.starts[row]
        keys = _mix(seeds[row] + place.astype(np.uint64))
        count = FEWEST + (_mix(seeds) % np.uint64(MOST - FEWEST + 1)).astype(np.int64)
        kept = np.sort(_first(row, np.lexsort((keys, row)), count))
        return _ragged(found.values[kept], row[kept], len(items))

    def preferred(self, histories: Ragged) -> Ragged:
        """Per history the terms of most count x weight, the strongest first."""
        row, term, count = self._counted(histories)
        return self._strongest(row, term, count, len(histories.starts) - 1, PREFERENCES)

    def shared(self, histories: Ragged, items: npt.NDArray[np.integer[Any]]) -> Ragged:
        """Per row the terms that the history shares with an item, the strongest first."""
        row, term, count = self._counted(histories)
        own = take_rows(self.of_items, items)
        keys = _rows(own) * len(self.names) + own.values
        both = np.isin(row * len(self.names) + term, keys)
        return self._strongest(row[both], term[both], count[both], len(items), REASONS)

    def texts(self, rows: Ragged, separator: str) -> list[str]:
        """(R,) the terms of each row in words; "" for none."""
        words = pl.DataFrame({"row": _rows(rows), "term": self.names.gather(rows.values)})
        joined = words.group_by("row", maintain_order=True).agg(pl.col("term").str.join(separator))
        every = pl.DataFrame({"row": np.arange(len(rows.starts) - 1)})
        told = every.join(joined, on="row", how="left", maintain_order="left")
        return told["term"].fill_null("").to_list()

    def _counted(
        self, histories: Ragged
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(P,) row, term and in how many items of the row's history the term is."""
        found = take_rows(self.of_items, histories.values)
        row = _rows(histories)[_rows(found)]
        keys, count = np.unique(row * len(self.names) + found.values, return_counts=True)
        return keys // len(self.names), keys % len(self.names), count

    def _strongest(
        self,
        row: npt.NDArray[np.int64],
        term: npt.NDArray[np.int64],
        count: npt.NDArray[np.int64],
        num_rows: int,
        most: int,
    ) -> Ragged:
        telling = self.weight[term] > 0
        row, term, count = row[telling], term[telling], count[telling]
        order = np.lexsort((term, -count * self.weight[term], row))
        kept = _first(row, order, np.full(num_rows, most))
        return _ragged(term[kept], row[kept], num_rows)


def item_terms(corpus: Corpus) -> Terms:
    """Collect the terms of the catalogue."""
    items = corpus.items.with_row_index("item")
    columns = [name for name in ITEM_COLUMNS if name in items.columns]
    parts = [_terms_of_column(items, name) for name in columns]
    table = (
        pl.concat(parts)
        if parts
        else pl.DataFrame({"item": [], "term": pl.Series([], dtype=pl.String)})
    )
    table = (
        table.with_columns(pl.col("item").cast(pl.Int64))
        .filter(pl.col("term") != "")
        .unique(["item", "term"], keep="first", maintain_order=True)
        .sort("item", maintain_order=True)
        .filter(pl.int_range(pl.len()).over("item") < PER_ITEM)
    )
    names = table["term"].unique().sort()
    number = table["term"].replace_strict(names, np.arange(len(names)), return_dtype=pl.Int64)
    numbers = number.to_numpy()
    of_items = _ragged(numbers, table["item"].to_numpy(), corpus.num_items)
    held = np.bincount(numbers, minlength=len(names))
    weight = np.where(held > 1, np.log((1 + corpus.num_items) / (1 + held)), 0.0)
    return Terms(names, of_items, weight)


def _terms_of_column(items: pl.DataFrame, name: str) -> pl.DataFrame:
    column = items.select("item", term=pl.col(name))
    while isinstance(column.schema["term"], pl.List):
        column = column.explode("term")
    term = pl.col("term").cast(pl.String).str.to_lowercase().str.strip_chars().fill_null("")
    if name in NAMES:
        parts = term.str.replace_all("|", ">", literal=True).str.split(">")
        names = pl.col("term").str.strip_chars().str.replace_all(r"\s+", " ")
        return column.with_columns(parts).explode("term").with_columns(names)
    return column.with_columns(term.str.extract_all(WORD)).explode("term").drop_nulls()


def _rows(rows: Ragged) -> npt.NDArray[np.int64]:
    """The row of each value."""
    return np.repeat(np.arange(len(rows.starts) - 1), np.diff(rows.starts))


def _first(
    row: npt.NDArray[np.int64], order: npt.NDArray[np.int64], count: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The first `count[r]` of each row r in an order that is sorted by row."""
    ordered = row[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return order[rank < count[ordered]]


def _ragged(
    values: npt.NDArray[np.integer[Any]], row: npt.NDArray[np.int64], num_rows: int
) -> Ragged:
    """Values with ascending row numbers as rows."""
    starts = starts_of(np.bincount(row, minlength=num_rows))
    return Ragged(values.astype(np.int32), starts)


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A well-mixed number for each number (the finaliser of SplitMix64, Steele et al. 2014)."""
    mixed = values * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
