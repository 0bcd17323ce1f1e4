"""A log of exposures of KuaiRand-Pure's size, with tastes that a CTR model can find."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from dasrec.core import Corpus, load_corpus, write_artifact
from dasrec.core.corpus import Impressions, save_corpus_payload

USER_COLUMNS = (9, 2, 2, 8, 9, 7, 8, 2, 7, 50, 32, 3, 116, 451, 7, 5, 5)
ITEM_COLUMNS = (108, 3, 13)
"""Distinct values of each category, as in KuaiRand-Pure."""
GROUPS = 8

Codes = npt.NDArray[np.int64]


class CtrWorld(NamedTuple):
    """The corpus, and its categories as numbers."""

    corpus: Corpus
    users: Codes
    """(U, columns)"""
    items: Codes
    """(I, columns)"""


def ctr_world(folder: Path, *, users: int, items: int, rows: int) -> CtrWorld:
    """Exposures of which a third is clicked; a user's first column and an item's first decide.

    Args:
        folder: where the corpus is written.
        users: U.
        items: I.
        rows: exposures; the last fifth of each user's is held out.
    """
    rng = np.random.default_rng(0)
    user_codes = np.stack([rng.integers(0, k, users) for k in USER_COLUMNS], axis=1)
    item_codes = np.stack([rng.integers(0, k, items) for k in ITEM_COLUMNS], axis=1)
    length = 2 + rng.geometric(1 / (rows / users - 1), users)
    user = np.repeat(np.arange(users), length)
    share = 1 / (10 + np.arange(items)) ** 0.7
    item = rng.choice(items, len(user), p=share / share.sum())
    place = np.arange(len(user)) - np.repeat(np.cumsum(length) - length, length)
    part = place / np.repeat(length, length)
    split = np.digitize(part, [0.8, 0.9])
    taste = rng.normal(-0.9, 1.2, (GROUPS, GROUPS))
    logit = taste[user_codes[user, 0] % GROUPS, item_codes[item, 0] % GROUPS]
    click = rng.random(len(user)) < 1 / (1 + np.exp(-logit))
    impressions = Impressions(
        user.astype(np.int32),
        item.astype(np.int32),
        place.astype(np.int64),
        click.astype(np.float32),
        split.astype(np.int8),
        (np.cumsum(click) - click).astype(np.int64),
    )

    def payload(path: Path) -> None:
        save_corpus_payload(
            path,
            user_idx=impressions.user_idx[click],
            item_idx=impressions.item_idx[click],
            timestamp=impressions.timestamp[click],
            split=impressions.split[click],
            users=_table("user_id", user_codes),
            items=_table("item_id", item_codes),
            impressions=impressions,
        )

    write_artifact(folder / "corpus", "corpus", {}, {}, payload)
    return CtrWorld(load_corpus(folder / "corpus"), user_codes, item_codes)


def _table(name: str, codes: Codes) -> pl.DataFrame:
    # Text, so that the columns are taken for categories.
    columns = {f"c{number}": codes[:, number] for number in range(codes.shape[1])}
    table = pl.DataFrame({name: np.arange(len(codes))} | columns)
    return table.cast(pl.String)
