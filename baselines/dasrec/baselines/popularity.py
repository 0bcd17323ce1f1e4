"""Popularity: everyone gets the items with the most training interactions, of all or late ones.

Shape letters: I items.
"""

import time
from pathlib import Path

import numpy as np
from pydantic import Field

from dasrec.core import Corpus, Manifest
from dasrec.core.catalogue_lists import Floats, ListsConfig, write_lists
from dasrec.core.corpus import Int64s

SECONDS_PER_DAY = 86_400


class PopularityConfig(ListsConfig):
    """The list of the most popular items."""


class RecentPopularityConfig(ListsConfig):
    """The list of the items that were popular last."""

    half_life_days: float = Field(365.0, gt=0)
    """An interaction so long before the last one of the training log counts half."""


def recommend_popularity(
    config: PopularityConfig, corpus: Corpus, out: Path, *, seed: int = 0, replace: bool = False
) -> Manifest:
    """Rank items by their number of training interactions, for validation and test queries.

    Args:
        config: the lists.
        corpus: its training interactions are counted.
        out: directory of the Recommendations artifact.
        seed: kept in the manifest; nothing here is random.
        replace: swap an artifact that is already at `out`.
    """
    return _recommend(
        config, corpus, corpus.train_item_count.astype(np.float32), out, seed, replace
    )


def recommend_recent_popularity(
    config: RecentPopularityConfig,
    corpus: Corpus,
    out: Path,
    *,
    seed: int = 0,
    replace: bool = False,
) -> Manifest:
    """Rank items by sum over training interactions of 2^(-age / half life).

    The age counts back from the last training interaction: the cut of a global split, and about
    the end of the log where one event of every user is left out.

    Arguments as `recommend_popularity`.
    """
    rows = corpus.train_rows
    time_N = corpus.timestamp[rows]
    age_N = (time_N.max(initial=0) - time_N) / SECONDS_PER_DAY
    weight_I = np.bincount(
        corpus.item_idx[rows], np.exp2(-age_N / config.half_life_days), corpus.num_items
    )
    return _recommend(config, corpus, weight_I.astype(np.float32), out, seed, replace)


def _recommend(
    config: ListsConfig, corpus: Corpus, weight_I: Floats, out: Path, seed: int, replace: bool
) -> Manifest:
    """The same scores for every query."""

    def score(queries: Int64s) -> Floats:
        return np.tile(weight_I, (len(queries), 1))

    began = time.perf_counter()
    return write_lists(out, config, corpus, score, began=began, seed=seed, replace=replace)
