"""Rows to score, and the history that precedes each of them.

Shape letters: M rows, B batch, T history length, C columns of the context, N interactions.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from dasrec.core.corpus import SPLITS, Corpus, Int32s, Int64s, Split, take_rows


class Rows(NamedTuple):
    """Labelled (user, item) pairs. A row's history ends where its event begins."""

    user_idx: Int32s
    """(M,)"""
    item_idx: Int32s
    """(M,)"""
    label: npt.NDArray[np.float32]
    """(M,) 0 or 1."""
    history_end: Int64s
    """(M,) the history is the interactions `user_start[u]:history_end` (point in time)."""
    context: pl.DataFrame | None = None
    """(M rows) `timestamp` (seconds) and the log's context columns; None = not known."""


def impression_rows(corpus: Corpus, split: Split) -> Rows:
    """The labelled impressions of one split."""
    impressions = corpus.impressions
    assert impressions is not None
    rows = np.flatnonzero(impressions.split == SPLITS[split])
    context = take_rows(impressions.context, rows)
    timestamp = pl.Series("timestamp", impressions.timestamp[rows])
    return Rows(
        impressions.user_idx[rows],
        impressions.item_idx[rows],
        impressions.label[rows],
        impressions.history_end[rows],
        pl.DataFrame([timestamp, *context]),
    )


def some_rows(rows: Rows, chosen: slice) -> Rows:
    """The chosen ones, with their context."""
    return Rows(
        rows.user_idx[chosen],
        rows.item_idx[chosen],
        rows.label[chosen],
        rows.history_end[chosen],
        None if rows.context is None else rows.context[chosen],
    )


def check_rows(rows: Rows, corpus: Corpus, name: str) -> None:
    """Refuse rows that do not fit the corpus.

    Raises:
        ValueError: a label other than 0 and 1, an unknown user or item, or a history that is not
            the user's. The message begins with `name` and says the row, counted from 1.
    """
    user = np.clip(rows.user_idx, 0, corpus.num_users - 1)
    first, last = corpus.user_start[user], corpus.user_start[user + 1]
    for column, bad, expected in (
        ("user_idx", rows.user_idx != user, f"0 to {corpus.num_users - 1}"),
        ("item_idx", _outside(rows.item_idx, corpus.num_items), f"0 to {corpus.num_items - 1}"),
        ("label", ~np.isin(rows.label, (0, 1)), "0 or 1"),
        (
            "history_end",
            (rows.history_end < first) | (rows.history_end > last),
            "a place among the user's interactions",
        ),
    ):
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(
                f"ranking: {name} row {row + 1}: {column} must be {expected}, got "
                f"{getattr(rows, column)[row]}; correct the row or leave it out"
            )


def _outside(index: npt.NDArray[np.integer], size: int) -> npt.NDArray[np.bool_]:
    return np.asarray((index < 0) | (index >= size))


class Batch(NamedTuple):
    """Input of the CTR model."""

    user_B: Tensor
    """(B,) user_idx."""
    item_B: Tensor
    """(B,) item_idx + 1."""
    history_BT: Tensor
    """(B, T) item_idx + 1, oldest first, 0 on the left where the history is shorter."""
    category_BC: Tensor
    """(B, C) row in the embedding of each category of the context, 0 = missing or unknown."""
    number_BC: Tensor
    """(B, C) standardised numbers of the context, NaN = missing."""
    user_sid_B: Tensor
    """(B,) row of the user's semantic ID: `user_B`, or that of the moment of the row."""


class HistorySource:
    """Cuts point-in-time histories out of the corpus's interactions, a whole batch at once."""

    def __init__(
        self,
        corpus: Corpus,
        max_length: int,
        device: torch.device,
        sid_of_moment: Tensor | None = None,
    ) -> None:
        """Copy the interaction column to `device`.

        Args:
            corpus: the interactions.
            max_length: keep the last so many items.
            device: where batches are made.
            sid_of_moment: row of the semantic ID of each moment (`dasrec.core.moments`) and of an
                unknown user; None = users have one semantic ID for all time.
        """
        self.sid_of_moment = None if sid_of_moment is None else sid_of_moment.to(device)
        self.item_N = torch.from_numpy(corpus.item_idx.astype(np.int64)).to(device)
        self.start_U = torch.from_numpy(corpus.user_start.astype(np.int64)).to(device)
        self.max_length = max_length
        self.device = device

    def batch(
        self,
        user_B: Tensor,
        item_B: Tensor,
        end_B: Tensor,
        category_BC: Tensor | None = None,
        number_BC: Tensor | None = None,
    ) -> Batch:
        """Put rows and their histories together; T is the longest history of this batch.

        Args:
            user_B: (B,) user_idx.
            item_B: (B,) item_idx of the targets.
            end_B: (B,) interaction row at which each history ends (exclusive).
            category_BC: (B, C) categories of the context; None for a model without any.
            number_BC: (B, C) numbers of the context; likewise.
        """
        first_B = self.start_U[user_B]
        longest = int((end_B - first_B).max().clamp(1, self.max_length))
        position_BT = end_B[:, None] + torch.arange(-longest, 0, device=self.device)
        real_BT = position_BT >= first_B[:, None]
        items_BT = (
            self.item_N[position_BT.clamp(min=0)]
            if len(self.item_N)
            else torch.zeros_like(position_BT)
        )
        if category_BC is None:
            category_BC = user_B.new_zeros(len(user_B), 0)
        if number_BC is None:
            number_BC = torch.zeros(len(user_B), 0, device=self.device)
        return Batch(
            user_B,
            item_B + 1,
            (items_BT + 1) * real_BT,
            category_BC,
            number_BC,
            self._user_sids(user_B, end_B),
        )

    def newest_user_sids(self) -> Tensor:
        """(U + 1,) `Batch.user_sid_B` of every user's whole history, and of an unknown user."""
        user_U = torch.arange(len(self.start_U), device=self.device)
        return self._user_sids(user_U, torch.cat([self.start_U[1:], self.start_U[-1:]]))

    def _user_sids(self, user_B: Tensor, end_B: Tensor) -> Tensor:
        if self.sid_of_moment is None:
            return user_B
        return self.sid_of_moment[end_B + user_B]
