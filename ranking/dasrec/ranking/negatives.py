"""Rows for corpora without labelled impressions: interactions, and negatives drawn for them.

The protocol: every event with an earlier one of its user is a positive; each gets `num_negatives`
items that the user has no interaction with. "popularity" draws them among items of the positive's
own popularity (training interactions), so that neither popularity nor coldness gives the label
away: with uniform negatives a model without any content scores above .9 on unseen items. Where
users have an item more than once, one that the history holds is a positive for certain: figures of
such a log are too high, so give it labelled impressions.

Shape letters: P positives, C negatives per positive, I items, G popularity groups.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from dasrec.core.config import StageConfig
from dasrec.core.corpus import Corpus, Int32s, Int64s, Split
from dasrec.core.seeding import generator
from dasrec.ranking.rows import Rows, impression_rows

MAX_ROUNDS = 50


class NegativesConfig(StageConfig):
    """Sampling of negatives; without effect on a corpus with labelled impressions."""

    num_negatives: int = Field(default=4, ge=1)
    """Negatives per positive."""

    matching: Literal["popularity", "uniform"] = "popularity"
    """Draw among items about as popular as the positive, or among all items."""

    group_size: int = Field(default=50, ge=1)
    """A popularity group takes in rising training counts until it holds so many items; items
    that never occur in training are a group of their own."""


def sampled_rows(config: NegativesConfig, corpus: Corpus, split: Split, seed: int) -> Rows:
    """Positives of one split and their negatives, one positive after the other.

    A negative is never an item of the user's training interactions. In valid and test it is
    no interaction of the user at all, so that the label is true. They are drawn once, from the
    seed and the split.
    """
    positives = corpus.queries(split)
    user_P = corpus.user_idx[positives]
    known = corpus.train_rows if split == "train" else np.arange(len(corpus.user_idx))
    taken = _pair_keys(corpus.user_idx[known], corpus.item_idx[known], corpus.num_items)
    drawn_PC = _draw(
        config, corpus, corpus.item_idx[positives], user_P, np.unique(taken), split, seed
    )
    items = np.concatenate([corpus.item_idx[positives][:, None], drawn_PC], axis=1)
    label = np.zeros(items.shape, np.float32)
    label[:, 0] = 1
    found = (items >= 0).ravel()  # a user who knows the whole group leaves a gap
    width = items.shape[1]
    return Rows(
        np.repeat(user_P, width)[found],
        items.ravel()[found].astype(np.int32),
        label.ravel()[found],
        np.repeat(positives, width)[found],
        pl.DataFrame({"timestamp": np.repeat(corpus.timestamp[positives], width)[found]}),
    )


def popularity_groups(train_item_count: Int64s, group_size: int) -> Int64s:
    """(I,) group of each item: rising training counts, equal counts together, 0 = never seen."""
    counts, items = np.unique(train_item_count, return_counts=True)
    group = np.zeros(len(counts), np.int64)
    current, held = 0, 0
    for row in range(len(counts)):
        if held >= group_size or (row and counts[row - 1] == 0):
            current, held = current + 1, 0
        group[row] = current
        held += items[row]
    if held < group_size and current > (1 if counts[0] == 0 else 0):
        group[group == current] = current - 1  # the last one is short
    return np.asarray(group[np.searchsorted(counts, train_item_count)])


def _draw(
    config: NegativesConfig,
    corpus: Corpus,
    item_P: Int32s,
    user_P: Int32s,
    taken: Int64s,
    split: Split,
    seed: int,
) -> npt.NDArray[np.int64]:
    """(P, C) items, -1 where none was found."""
    count = corpus.train_item_count
    group_I = (
        popularity_groups(count, config.group_size)
        if config.matching == "popularity"
        else np.zeros(len(count), np.int64)
    )
    order = np.argsort(group_I, kind="stable")
    # Within a group items are drawn like positives are: in proportion to their training count.
    weight = np.maximum(count, 1) if config.matching == "popularity" else np.ones_like(count)
    edge = np.concatenate([[0.0], np.cumsum(weight[order].astype(np.float64))])
    first = np.searchsorted(group_I[order], np.arange(group_I.max() + 2))
    low, high = edge[first[group_I[item_P]]], edge[first[group_I[item_P] + 1]]
    random = generator(seed, "ranking", "negatives", split)
    drawn = np.full((len(item_P), config.num_negatives), -1, np.int64)
    for _ in range(MAX_ROUNDS):
        row, column = np.nonzero(drawn < 0)
        if not len(row):
            break
        mass = low[row] + random.random(len(row)) * (high[row] - low[row])
        item = order[np.clip(np.searchsorted(edge, mass, side="right") - 1, 0, len(order) - 1)]
        free = ~_contains(taken, _pair_keys(user_P[row], item, corpus.num_items))
        drawn[row[free], column[free]] = item[free]
    return drawn


def _pair_keys(user: Int32s, item: npt.NDArray[np.integer], num_items: int) -> Int64s:
    return user.astype(np.int64) * num_items + item


def _contains(keys: Int64s, wanted: Int64s) -> npt.NDArray[np.bool_]:
    if not len(keys):
        return np.zeros(len(wanted), np.bool_)
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.asarray(keys[place] == wanted)


def rows_of(config: NegativesConfig, corpus: Corpus, split: Split, seed: int) -> Rows:
    """Labelled impressions where the corpus has them, sampled negatives where not."""
    if corpus.impressions is None:
        return sampled_rows(config, corpus, split, seed)
    return impression_rows(corpus, split)
