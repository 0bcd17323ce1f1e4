"""Positive pairs from the training interactions (das-method 1.3, 4.4). No torch.

Shape letters: N training interactions, U users, I items, B click pairs of a batch.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse

from dasrec.core import Corpus, Ragged

Int64s = npt.NDArray[np.int64]


class Pairs(NamedTuple):
    """One epoch of click pairs, shuffled, each with co-occurring partners or -1."""

    user_N: Int64s
    item_N: Int64s
    partner_user_N: Int64s
    """u' != u, another training clicker of the item; -1: none, or thinned out."""
    partner_item_N: Int64s
    """i' != i, near i in the user's training sequence; -1: none, or thinned out."""


class Batch(NamedTuple):
    """Distinct users and items of a step, and the pairs as positions in those two lists."""

    users: Int64s
    items: Int64s
    click_users_B: Int64s
    click_items_B: Int64s
    clicked_BB: npt.NDArray[np.bool_]
    """[n, m]: user n clicked item m in training."""
    user_pairs: Int64s
    """(2, pairs) co-occurring users."""
    item_pairs: Int64s
    """(2, pairs) co-occurring items."""


class PairSampler:
    """Draws pairs and cuts them into batches; everything it knows are the training rows."""

    def __init__(self, corpus: Corpus, window: int, damping: float) -> None:
        self.window, self.damping = window, damping
        self.sequences: Ragged = corpus.train_sequences
        self.user_N = corpus.user_idx[corpus.train_rows].astype(np.int64)
        self.item_N = self.sequences.values.astype(np.int64)
        self.count_I = corpus.train_item_count
        self.by_item = np.argsort(self.item_N, kind="stable")  # interactions grouped by item
        self.item_start = np.concatenate([[0], np.cumsum(self.count_I)])
        self.place_N = np.empty_like(self.by_item)  # inverse of by_item
        self.place_N[self.by_item] = np.arange(len(self.by_item))
        shape = (corpus.num_users, corpus.num_items)
        ones = np.ones(len(self.user_N), dtype=bool)
        self.clicked_UI = scipy.sparse.csr_array((ones, (self.user_N, self.item_N)), shape=shape)

    def epoch(self, rng: np.random.Generator) -> Pairs:
        """All training interactions in random order, with freshly drawn partners."""
        order = rng.permutation(len(self.user_N))
        pairs = Pairs(self.user_N, self.item_N, self._partner_users(rng), self._partner_items(rng))
        return Pairs(*(column[order] for column in pairs))

    def batches(self, pairs: Pairs, batch_size: int) -> Iterator[Batch]:
        """Cut an epoch into batches; a last incomplete one is left out (a few in-batch negatives
        more or less would change its losses' scale), unless it is the only one."""
        size = min(batch_size, len(pairs.user_N))
        for start in range(0, len(pairs.user_N) - size + 1, size):
            yield self._batch(Pairs(*(column[start : start + size] for column in pairs)))

    def _batch(self, pairs: Pairs) -> Batch:
        has_user, has_item = pairs.partner_user_N >= 0, pairs.partner_item_N >= 0
        users, user_at = np.unique(
            np.concatenate([pairs.user_N, pairs.partner_user_N[has_user]]), return_inverse=True
        )
        items, item_at = np.unique(
            np.concatenate([pairs.item_N, pairs.partner_item_N[has_item]]), return_inverse=True
        )
        size = len(pairs.user_N)
        click_users, click_items = user_at[:size], item_at[:size]
        clicked = self.clicked_UI[users][:, items].toarray()
        return Batch(
            users,
            items,
            click_users,
            click_items,
            clicked[click_users][:, click_items],
            np.stack([click_users[has_user], user_at[size:]]),
            np.stack([click_items[has_item], item_at[size:]]),
        )

    def _partner_users(self, rng: np.random.Generator) -> Int64s:
        count_N = self.count_I[self.item_N]
        start_N = self.item_start[self.item_N]
        # A step of 1..count-1 round the item's clickers never lands on the interaction itself.
        step = 1 + (rng.random(len(count_N)) * np.maximum(count_N - 1, 1)).astype(np.int64)
        other = self.by_item[start_N + (self.place_N - start_N + step) % count_N]
        partner = self.user_N[other]
        keep = (partner != self.user_N) & self._thin(count_N, rng)
        return np.where(keep, partner, -1)

    def _partner_items(self, rng: np.random.Generator) -> Int64s:
        row = np.arange(len(self.item_N))
        first = np.maximum(self.sequences.starts[self.user_N], row - self.window)
        last = np.minimum(self.sequences.starts[self.user_N + 1] - 1, row + self.window)
        other = first + (rng.random(len(row)) * np.maximum(last - first, 1)).astype(np.int64)
        other = np.minimum(other + (other >= row), last)  # skip the interaction itself
        partner = self.item_N[other]
        popularity = np.sqrt(self.count_I[self.item_N] * self.count_I[partner])
        keep = (partner != self.item_N) & self._thin(popularity, rng)
        return np.where(keep, partner, -1)

    def _thin(
        self, popularity_N: npt.NDArray[np.int64 | np.float64], rng: np.random.Generator
    ) -> npt.NDArray[np.bool_]:
        """Keep with probability min(1, (median / popularity)^damping).

        Co-occurrence is not debiased by ICDM: unthinned, popular items would dominate it.
        """
        ratio = np.median(popularity_N) / np.maximum(popularity_N, 1)
        return np.asarray(rng.random(len(popularity_N)) < np.minimum(1, ratio) ** self.damping)


def plain_batches(
    num_users: int, num_items: int, batch_size: int, rng: np.random.Generator
) -> Iterator[tuple[Int64s, Int64s]]:
    """(users, items) of each step where no pairs are needed: one pass over the longer side.

    The shorter side starts again when it is used up. `num_users` 0: items only.
    """
    steps = max(1, max(num_users, num_items) // batch_size)
    size = -(-max(num_users, num_items) // steps)
    users = np.resize(rng.permutation(num_users), steps * size if num_users else 0)
    items = np.resize(rng.permutation(num_items), steps * size)
    for step in range(steps):
        cut = slice(step * size, (step + 1) * size)
        yield users[cut], items[cut]
