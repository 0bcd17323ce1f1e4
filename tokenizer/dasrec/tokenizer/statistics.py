"""Popularity of items and conformity of users, from the training interactions only.

They feed ICDM's reference encoders (das-method 4.3). Shape letters: U users, I items, S statistics.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dasrec.core import SPLITS, Corpus

Floats = npt.NDArray[np.float32]


class PopularityStatistics(NamedTuple):
    """Standardised (mean 0, variance 1 per column; constant columns are 0)."""

    items_IS: Floats
    """log1p clicks, recency-weighted log1p clicks, age; with impressions log1p exposures and
    smoothed click-through rate. Column 0 is the regression target of the item anchor."""
    users_US: Floats
    """Mean, minimum and standard deviation of log1p popularity of the clicked items, share of
    clicks on the top 1% of items, log1p activity. Column 0 is the user anchor's target."""
    log_q_I: Floats
    """log of each item's share of the training clicks (items without any count as half a click):
    how often in-batch sampling draws it as a negative."""


def popularity_statistics(corpus: Corpus) -> PopularityStatistics:
    """Compute the statistics of a corpus."""
    count_I = corpus.train_item_count
    return PopularityStatistics(
        _standardise(_item_columns(corpus)),
        _standardise(_user_columns(corpus)),
        np.log(np.maximum(count_I, 0.5) / max(count_I.sum(), 1)).astype(np.float32),
    )


def _item_columns(corpus: Corpus) -> list[npt.NDArray[np.float64]]:
    rows = corpus.train_rows
    item, time = corpus.item_idx[rows], corpus.timestamp[rows].astype(np.float64)
    first, last = (time.min(), time.max()) if len(rows) else (0.0, 0.0)
    age = (last - time) / max(last - first, 1.0)  # 0 = newest training click, 1 = oldest
    recent = np.bincount(item, weights=np.exp(-5 * age), minlength=corpus.num_items)
    oldest = np.zeros(corpus.num_items)
    np.maximum.at(oldest, item, age)
    columns = [np.log1p(corpus.train_item_count), np.log1p(recent), oldest]
    if corpus.impressions is not None:
        shown = corpus.impressions.split == SPLITS["train"]
        ids = corpus.impressions.item_idx[shown]
        exposures = np.bincount(ids, minlength=corpus.num_items)
        clicks = np.bincount(
            ids, weights=corpus.impressions.label[shown], minlength=corpus.num_items
        )
        rate = clicks.sum() / max(exposures.sum(), 1)
        columns += [np.log1p(exposures), (clicks + 20 * rate) / (exposures + 20)]
    return columns


def _user_columns(corpus: Corpus) -> list[npt.NDArray[np.float64]]:
    rows, num_users = corpus.train_rows, corpus.num_users
    user, count_I = corpus.user_idx[rows], corpus.train_item_count
    popularity = np.log1p(count_I[corpus.item_idx[rows]])
    activity = np.bincount(user, minlength=num_users)
    clicks = np.maximum(activity, 1)
    mean = np.bincount(user, weights=popularity, minlength=num_users) / clicks
    spread = np.bincount(user, weights=(popularity - mean[user]) ** 2, minlength=num_users)
    lowest = np.full(num_users, np.inf)
    np.minimum.at(lowest, user, popularity)
    head = np.zeros(corpus.num_items)
    head[np.argsort(-count_I, kind="stable")[: max(1, corpus.num_items // 100)]] = 1
    on_head = np.bincount(user, weights=head[corpus.item_idx[rows]], minlength=num_users) / clicks
    return [
        mean,
        np.where(np.isfinite(lowest), lowest, 0),
        np.sqrt(spread / clicks),
        on_head,
        np.log1p(activity),
    ]


def _standardise(columns: list[npt.NDArray[np.float64]]) -> Floats:
    table = np.stack(columns, 1)
    spread = table.std(0)
    standard: Floats = ((table - table.mean(0)) / np.where(spread > 0, spread, 1)).astype(
        np.float32
    )
    return standard
