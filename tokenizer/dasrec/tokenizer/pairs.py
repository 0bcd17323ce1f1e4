"""Positive pairs from the training interactions (das-method 1.3, 4.4). No torch.

A batch is made of whole stretches of users' sequences: a user then stands once among its rows for
all the clicks in it, and the items that co-occur are there already. On Amazon Beauty a batch of
1024 clicks drawn singly has about 3,200 distinct rows to encode, this one 1,400.

Shape letters: N training interactions, U users, I items, B click pairs of a batch.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse

from dasrec.core import Corpus, Ragged

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

STRETCH = 32  # clicks of one user that stay together, at most


class Pairs(NamedTuple):
    """One epoch of click pairs, in the order of the batches, each with partners or -1."""

    user_N: Int64s
    item_N: Int64s
    partner_user_N: Int64s
    """u' != u, another training clicker of the item; -1: none, or thinned out."""
    partner_item_N: Int64s
    """i' != i, near i in the same stretch of the user's training sequence; -1: as above."""
    start_S: Int64s
    """First pair of each stretch."""


class Batch(NamedTuple):
    """Distinct users and items of a step, and the pairs as positions in those two lists."""

    users: Int64s
    """First those of the click pairs, then further ones that are only partners."""
    items: Int64s
    click_users_B: Int64s
    click_items_B: Int64s
    clicked_UI: Bools
    """[u, i]: the u-th user of the click pairs clicked the i-th item in training."""
    user_pairs: Int64s
    """(2, pairs) co-occurring users, at most one pair for each user of the click pairs."""
    item_pairs: Int64s
    """(2, pairs) co-occurring items, at most one pair for each item."""


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
        self.first_N, self.last_N = self._stretches()

    def epoch(self, rng: np.random.Generator) -> Pairs:
        """All training interactions, stretches in random order, with freshly drawn partners."""
        start = np.unique(self.first_N)
        length = np.diff(np.append(start, len(self.user_N)))
        shuffled = rng.permutation(len(start))
        start, length = start[shuffled], length[shuffled]
        begin = np.cumsum(length) - length
        order = np.repeat(start - begin, length) + np.arange(len(self.user_N))
        columns = (self.user_N, self.item_N, self._partner_users(rng), self._partner_items(rng))
        user, item, partner_user, partner_item = (column[order] for column in columns)
        return Pairs(user, item, partner_user, partner_item, begin)

    def num_batches(self, batch_size: int) -> int:
        """How many `batches` there are (one less where a stretch spans a whole batch)."""
        return max(1, round(len(self.user_N) / batch_size))

    def batches(self, pairs: Pairs, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
        """Cut an epoch into batches of about `batch_size` pairs, between stretches."""
        total = len(pairs.user_N)
        steps = self.num_batches(batch_size)
        step_S = pairs.start_S * steps // total
        cuts = pairs.start_S[np.flatnonzero(np.diff(step_S, prepend=-1))]
        for begin, end in zip(cuts, np.append(cuts[1:], total), strict=True):
            cut = [column[begin:end] for column in pairs[:4]]
            yield self._batch(Pairs(cut[0], cut[1], cut[2], cut[3], pairs.start_S), rng)

    def _batch(self, pairs: Pairs, rng: np.random.Generator) -> Batch:
        users, user_B = np.unique(pairs.user_N, return_inverse=True)
        items, item_B = np.unique(pairs.item_N, return_inverse=True)
        anchor, row = _one_each(user_B, pairs.partner_user_N, rng)
        partner = pairs.partner_user_N[row]
        at = np.minimum(np.searchsorted(users, partner), len(users) - 1)
        outside = users[at] != partner
        further, further_at = np.unique(partner[outside], return_inverse=True)
        at[outside] = len(users) + further_at
        item_anchor, item_row = _one_each(item_B, pairs.partner_item_N, rng)
        item_partner = np.searchsorted(items, pairs.partner_item_N[item_row])
        return Batch(
            np.concatenate([users, further]),
            items,
            user_B,
            item_B,
            self._clicked(users, items),
            np.stack([anchor, at]),
            np.stack([item_anchor, item_partner]),
        )

    def _clicked(self, users: Int64s, items: Int64s) -> Bools:
        """The block of the click matrix, from the users' rows alone (scipy's column indexing
        passes over all columns)."""
        start, end = self.clicked_UI.indptr[users], self.clicked_UI.indptr[users + 1]
        length = (end - start).astype(np.int64)
        row = np.repeat(np.arange(len(users)), length)
        place = np.arange(len(row)) + np.repeat(start - (np.cumsum(length) - length), length)
        item = self.clicked_UI.indices[place]
        at = np.minimum(np.searchsorted(items, item), len(items) - 1)
        there = items[at] == item
        block: Bools = np.zeros((len(users), len(items)), bool)
        block[row[there], at[there]] = True
        return block

    def _stretches(self) -> tuple[Int64s, Int64s]:
        """First and last interaction of each interaction's stretch: at most STRETCH long, even."""
        starts = self.sequences.starts.astype(np.int64)
        length_U = np.diff(starts)
        parts_U = np.maximum(-(-length_U // STRETCH), 1)
        length_N, parts_N = length_U[self.user_N], parts_U[self.user_N]
        begin_N = starts[self.user_N]
        part_N = (np.arange(len(self.user_N)) - begin_N) * parts_N // np.maximum(length_N, 1)
        first_N = begin_N + -(-part_N * length_N // parts_N)
        last_N = begin_N + -(-(part_N + 1) * length_N // parts_N) - 1
        return first_N, last_N

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
        first = np.maximum(self.first_N, row - self.window)
        last = np.minimum(self.last_N, row + self.window)
        other = first + (rng.random(len(row)) * np.maximum(last - first, 1)).astype(np.int64)
        other = np.minimum(other + (other >= row), last)  # skip the interaction itself
        partner = self.item_N[other]
        popularity = np.sqrt(self.count_I[self.item_N] * self.count_I[partner])
        keep = (partner != self.item_N) & self._thin(popularity, rng)
        return np.where(keep, partner, -1)

    def _thin(
        self, popularity_N: npt.NDArray[np.int64 | np.float64], rng: np.random.Generator
    ) -> Bools:
        """Keep with probability min(1, (median / popularity)^damping).

        Co-occurrence is not debiased by ICDM: unthinned, popular items would dominate it.
        """
        ratio = np.median(popularity_N) / np.maximum(popularity_N, 1)
        return np.asarray(rng.random(len(popularity_N)) < np.minimum(1, ratio) ** self.damping)


def _one_each(
    anchor_B: Int64s, partner_B: Int64s, rng: np.random.Generator
) -> tuple[Int64s, Int64s]:
    """Anchors that have a partner, and for each a random row of the batch that names one."""
    rows = rng.permutation(np.flatnonzero(partner_B >= 0))
    anchor, first = np.unique(anchor_B[rows], return_index=True)
    return anchor, rows[first]


def num_plain_batches(num_users: int, num_items: int, batch_size: int) -> int:
    """How many `plain_batches` there are."""
    return max(1, max(num_users, num_items) // batch_size)


def plain_batches(
    num_users: int, num_items: int, batch_size: int, rng: np.random.Generator
) -> Iterator[tuple[Int64s, Int64s]]:
    """(users, items) of each step where no pairs are needed: one pass over the longer side.

    The shorter side starts again when it is used up. `num_users` 0: items only.
    """
    steps = num_plain_batches(num_users, num_items, batch_size)
    size = -(-max(num_users, num_items) // steps)
    users = np.resize(rng.permutation(num_users), steps * size if num_users else 0)
    items = np.resize(rng.permutation(num_items), steps * size)
    for step in range(steps):
        cut = slice(step * size, (step + 1) * size)
        yield users[cut], items[cut]
