"""A small corpus with texts, profiles and a raw file in another order."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dasrec.core import Corpus, build_config, load_corpus, write_artifact
from dasrec.core.corpus import save_corpus_payload
from dasrec.core.embed import EmbedConfig

WORDS = [
    "the",
    "with",
    "red",
    "blue",
    "lamp",
    "desk",
    "chair",
    "oak",
    "steel",
    "soft",
    "round",
    "tall",
    "garden",
]
NUM_USERS, NUM_ITEMS = 12, 20


def items_table() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "item_id": [f"I{i}" for i in range(NUM_ITEMS)],
            "title": [" ".join(rng.choice(WORDS, 4)) for _ in range(NUM_ITEMS)],
            "brand": ["Acme", "Bolt", None, ""] * 5,
            "categories": [["Home", "Light"], ["Home"], [], None] * 5,
            "price": np.arange(NUM_ITEMS) / 2,
            # the raw file had 5 rows more and another order
            "source_row": rng.permutation(NUM_ITEMS + 5)[:NUM_ITEMS],
        }
    )


def users_table() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": [f"U{u}" for u in range(NUM_USERS)],
            "gender": ["f", None, "m"] * 4,
            "age_group": ["18-24", "25-34", None, None] * 3,
            "source_row": np.arange(NUM_USERS)[::-1],
        }
    )


def make_corpus(path: Path, change: Callable[[dict[str, Any]], None] | None = None) -> Corpus:
    """User u has u % 4 training events (so users 0, 4, 8 have none), one valid, one test."""
    rng = np.random.default_rng(1)
    per_user = np.arange(NUM_USERS) % 4 + 2
    user_idx = np.repeat(np.arange(NUM_USERS, dtype=np.int32), per_user)
    data: dict[str, Any] = {
        "user_idx": user_idx,
        "item_idx": rng.integers(0, NUM_ITEMS, len(user_idx), dtype=np.int32),
        "timestamp": np.arange(len(user_idx), dtype=np.int64) * 100,
        "split": np.concatenate([[0] * (n - 2) + [1, 2] for n in per_user]).astype(np.int8),
        "users": users_table(),
        "items": items_table(),
        "impressions": None,
    }
    if change is not None:
        change(data)
    write_artifact(path, "corpus", {}, {}, lambda scratch: save_corpus_payload(scratch, **data))
    return load_corpus(path)


def config(**sections: Any) -> EmbedConfig:
    return build_config(EmbedConfig, {"lsa": {"dim": 4, "min_df": 1}, **sections}, "test: embed")
