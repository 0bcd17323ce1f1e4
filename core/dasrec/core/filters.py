"""Which rows of a log stay: repeats and the k-core."""

import numpy as np
import numpy.typing as npt
import polars as pl

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


def drop_repeats(log: pl.DataFrame) -> pl.DataFrame:
    """One row of every (user_id, item_id, time_us): that of the smallest key, then row."""
    once = log.sort("key", "row").unique(
        ["user_id", "item_id", "time_us"], keep="first", maintain_order=True
    )
    return once.sort("row")


def k_core(user_N: Ints, item_N: Ints, min_user: int, min_item: int) -> Bools:
    """The largest subset in which every user and every item has enough rows.

    Rows of users with fewer than `min_user` rows and of items with fewer than `min_item` are
    removed until none is left to remove; the result does not depend on the order of removal.

    Args:
        user_N: codes 0.. of the users.
        item_N: codes 0.. of the items.
        min_user: rows a user needs; 0 and 1 remove nothing.
        min_item: rows an item needs.

    Returns:
        (N,) which rows stay; possibly none.
    """
    keep_N = np.ones(len(user_N), dtype=bool)
    rows = np.arange(len(user_N))
    while len(rows):
        user, item = user_N[rows], item_N[rows]
        enough = (np.bincount(user)[user] >= min_user) & (np.bincount(item)[item] >= min_item)
        if enough.all():
            break
        keep_N[rows[~enough]] = False
        rows = rows[enough]
    return keep_N
