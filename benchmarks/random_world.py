"""Corpora and embeddings of any size, for measuring time and memory: clicks mean nothing here."""

from pathlib import Path

import numpy as np
import polars as pl

from dasrec.core import Corpus, Embeddings, load_corpus, write_artifact
from dasrec.core.corpus import save_corpus_payload


def random_world(
    folder: Path, *, users: int, items: int, clicks: int, width: int
) -> tuple[Corpus, Embeddings]:
    """Zipf-popular items, users with two held-out and on average `clicks` / `users` train clicks.

    Args:
        folder: where the corpus is written.
        users: U.
        items: I.
        clicks: training interactions, about.
        width: of the embeddings, float32 in memory.
    """
    rng = np.random.default_rng(0)
    length = 4 + rng.geometric(1 / (clicks / users - 1), users) - 1
    user = np.repeat(np.arange(users, dtype=np.int32), length)
    share = 1 / (10 + np.arange(items)) ** 0.7
    item = rng.choice(items, len(user), p=share / share.sum()).astype(np.int32)
    place = np.arange(len(user)) - np.repeat(np.cumsum(length) - length, length)
    left = np.repeat(length, length) - place
    split = np.select([left == 1, left == 2], [2, 1], 0).astype(np.int8)

    def payload(path: Path) -> None:
        save_corpus_payload(
            path,
            user_idx=user,
            item_idx=item,
            timestamp=place,
            split=split,
            users=pl.DataFrame({"user_id": np.arange(users)}).cast(pl.String),
            items=pl.DataFrame({"item_id": np.arange(items)}).cast(pl.String),
            impressions=None,
        )

    write_artifact(folder / "corpus", "corpus", {}, {}, payload)
    corpus = load_corpus(folder / "corpus")
    x_items = rng.standard_normal((items, width), np.float32)
    x_users = rng.standard_normal((users, width), np.float32)
    return corpus, Embeddings(corpus.manifest, x_items, x_users)
