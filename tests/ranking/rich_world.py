"""A corpus whose tables and log hold a column of every type."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dasrec.core import Corpus, load_corpus, write_artifact
from dasrec.core.corpus import Impressions, save_corpus_payload

USERS, ITEMS, ROWS_EACH = 40, 50, 20
HOUR = 3_600


def user_table() -> pl.DataFrame:
    u = np.arange(USERS)
    return pl.DataFrame(
        {
            "user_id": [f"u{i}" for i in u],
            "source_row": u,
            "age": [None if i % 7 == 0 else float(i % 4) for i in u],
            "fans": [None if i % 5 == 0 else float(i**2) + 0.5 for i in u],
            "member_number": 1_000 + u,
            "likes": [[f"t{i % 3}", f"t{i % 5}"] if i % 4 else [] for i in u],
        }
    )


def item_table() -> pl.DataFrame:
    i = np.arange(ITEMS)
    return pl.DataFrame(
        {
            "item_id": [f"i{k}" for k in i],
            "source_row": i[::-1],
            "brand": [None if k % 5 == 0 else f"b{k % 4}" for k in i],
            "author": [f"author {k % 23}" for k in i],
            "genres": ["" if k % 6 == 0 else f"g{k % 3}, g{k % 2}" for k in i],
            "price": [None if k % 9 == 0 else 10.0 * k for k in i],
            "made": [None] * ITEMS,
        }
    )


def log_context(rows: int) -> pl.DataFrame:
    m = np.arange(rows)
    return pl.DataFrame(
        {
            "device": [None if k % 11 == 0 else f"d{k % 3}" for k in m],
            "bid": [None if k % 13 == 0 else float(k % 17) for k in m],
        }
    )


def write(
    path: Path,
    *,
    users: pl.DataFrame | None = None,
    items: pl.DataFrame | None = None,
    context: pl.DataFrame | None = None,
    item: np.ndarray | None = None,
) -> Corpus:
    """Every user sees ROWS_EACH items, one an hour; three fifths are training."""
    rng = np.random.default_rng(3)
    user = np.repeat(np.arange(USERS), ROWS_EACH)
    drawn = rng.integers(0, ITEMS, len(user)) if item is None else item
    time = np.tile(np.arange(ROWS_EACH), USERS)
    label = (rng.random(len(user)) < 0.5).astype(np.float32)
    click = label > 0
    exposures = Impressions(
        user.astype(np.int32),
        drawn.astype(np.int32),
        (time * HOUR).astype(np.int64),
        label,
        np.digitize(time, [12, 15]).astype(np.int8),
        (np.cumsum(click) - click).astype(np.int64),
        log_context(len(user)) if context is None else context,
    )

    def payload(scratch: Path) -> None:
        save_corpus_payload(
            scratch,
            user_idx=exposures.user_idx[click],
            item_idx=exposures.item_idx[click],
            timestamp=exposures.timestamp[click],
            split=exposures.split[click],
            users=user_table() if users is None else users,
            items=item_table() if items is None else items,
            impressions=exposures,
        )

    write_artifact(path, "corpus", {}, {}, payload, replace=True)
    return load_corpus(path)


def field(kind: str, side: str, name: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "side": side, "name": name} | more
