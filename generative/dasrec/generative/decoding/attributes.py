"""What is known of the items, for requests that ask for some of them only."""

import json
import threading
from collections import OrderedDict
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import Tensor

from dasrec.generative.decoding.allowed import Allowed
from dasrec.generative.decoding.conditions import Where, expression
from dasrec.generative.decoding.index import SidIndex


class _Answer(NamedTuple):
    """What is kept of a request's conditions."""

    mask: Tensor
    """(rows,) bool"""
    allowed: Allowed
    """Of the index it was last asked for."""


class ItemAttributes:
    """A table of item attributes that turns conditions into predicates (see `conditions`).

    The predicates asked for last are kept, so that requests with the same conditions share one.
    """

    def __init__(self, table: Any, *, cache_size: int = 32) -> None:
        """Take the table.

        Args:
            table: Anything polars makes a DataFrame of (polars, Arrow, a dict of columns); row i
                describes item index i.
            cache_size: Predicates kept; each takes 5 bytes per item.
        """
        self.table = pl.DataFrame(table)
        self._cache_size = cache_size
        self._cache: OrderedDict[str, _Answer] = OrderedDict()
        self._lock = threading.Lock()

    def extended(self, table: Any) -> "ItemAttributes":
        """With more rows, for items about to be added to a catalogue: first here, then there.

        Raises:
            ValueError: Other columns than the table's.
        """
        more = pl.DataFrame(table)
        if more.schema != self.table.schema:
            raise ValueError(
                f"attributes: more rows of {dict(self.table.schema)} needed, got"
                f" {dict(more.schema)}"
            )
        return ItemAttributes(pl.concat([self.table, more]), cache_size=self._cache_size)

    def allowed(self, index: SidIndex, where: Where) -> Allowed:
        """The items of `index` that meet all conditions, retired ones left out.

        Args:
            index: The trie or snapshot to be searched, on its device. The table may have rows for
                items that came after it.
            where: Conditions, see `conditions`.

        Raises:
            ValueError: Conditions that do not fit the columns; items without a row.
        """
        if len(self.table) < index.num_items:
            raise ValueError(
                f"attributes: {len(self.table)} rows for {index.num_items} items; give the added"
                " items' rows with `extended`"
            )
        key = json.dumps(dict(where), sort_keys=True, default=repr)
        with self._lock:
            answer = self._cache.get(key)
        if answer is None or answer.allowed.made_for() is not index:
            mask = self.mask(where) if answer is None else answer.mask
            answer = _Answer(mask, Allowed.of(index, mask[: index.num_items]))
        with self._lock:
            self._cache[key] = answer
            self._cache.move_to_end(key)
            if len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        return answer.allowed

    def mask(self, where: Where) -> Tensor:
        """(rows,) bool: which rows meet all conditions.

        Raises:
            ValueError: Conditions that do not fit the columns.
        """
        condition = expression(where, self.table.schema)
        met = self.table.select(met=condition.fill_null(False))["met"]
        if len(met) != len(self.table):  # no column was asked for
            met = pl.repeat(met[0], len(self.table), eager=True)
        return torch.from_numpy(met.to_numpy().copy())
