"""Subsets of test rows by what training saw of their items and users.

By training impressions of the item (interactions where the log has no impressions):
`unseen` (none), `few` (1 to 5), `cold` (both), `warm` (more), and within `warm` mostly `head` (the
most popular items that together hold a quarter of the impressions). Within these, rows of cold
items compete with each other only, which measures ranking. `unseen_vs_all` and `cold_vs_all` set
the positives of these items against all negatives, which measures whether their scores are too
low as a whole; as the label chooses the rows, calibration means nothing there.

By training impressions of the user: `unseen_users` (none), `light_users` (up to the median of the
others), `heavy_users`.
"""

import numpy as np
import numpy.typing as npt

from dasrec.core.corpus import SPLITS, Corpus, Int64s
from dasrec.eval.slices import head_threshold

Bools = npt.NDArray[np.bool_]

FEW = 5
AGAINST_ALL = "_vs_all"


def row_slices(
    corpus: Corpus, user_idx: Int64s, item_idx: Int64s, label: npt.NDArray[np.floating]
) -> dict[str, Bools]:
    """(M,) masks by name, `all` first; a slice without rows is left out."""
    item_count, user_count = training_counts(corpus)
    shown, known = item_count[item_idx], user_count[user_idx]
    seen_users = np.unique(user_idx[known > 0])
    median = np.median(user_count[seen_users]) if len(seen_users) else 0
    cold, negative = shown <= FEW, label == 0
    masks = {
        "all": np.ones(len(label), np.bool_),
        "unseen": shown == 0,
        "few": cold & (shown > 0),
        "cold": cold,
        "warm": ~cold,
        "head": shown >= head_threshold(item_count),
        f"unseen{AGAINST_ALL}": (shown == 0) | negative,
        f"cold{AGAINST_ALL}": cold | negative,
        "unseen_users": known == 0,
        "light_users": (known > 0) & (known <= median),
        "heavy_users": known > median,
    }
    for name in ("unseen", "cold"):
        if not (masks[name] & ~negative).any():
            del masks[name + AGAINST_ALL]
    return {name: mask for name, mask in masks.items() if mask.any()}


def training_counts(corpus: Corpus) -> tuple[Int64s, Int64s]:
    """(I,) and (U,) training impressions of every item and user."""
    shown = corpus.impressions
    if shown is None:
        item, user = (column[corpus.train_rows] for column in (corpus.item_idx, corpus.user_idx))
    else:
        train = shown.split == SPLITS["train"]
        item, user = shown.item_idx[train], shown.user_idx[train]
    return (
        np.bincount(item, minlength=corpus.num_items),
        np.bincount(user, minlength=corpus.num_users),
    )
