"""A small world with known taste: users of a cluster click items of that cluster."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dasrec.core import Corpus, Embeddings, load_corpus, load_embeddings, write_artifact
from dasrec.core.corpus import save_corpus_payload

NUM_USERS, NUM_ITEMS, NUM_CLUSTERS, CLICKS = 60, 40, 4, 8

MakeWorld = Callable[..., tuple[Corpus, Embeddings]]


@pytest.fixture
def make_world(tmp_path: Path) -> MakeWorld:
    """Writes a corpus (leave-one-out) and embeddings; `held_out_seed` moves valid and test rows."""

    def make(name: str = "world", held_out_seed: int = 0) -> tuple[Corpus, Embeddings]:
        rng = np.random.default_rng(0)
        cluster_U = rng.integers(NUM_CLUSTERS, size=NUM_USERS)
        cluster_I = np.arange(NUM_ITEMS) % NUM_CLUSTERS
        popularity_I = 1 / (1 + rng.permutation(NUM_ITEMS))
        share_UI = popularity_I * np.where(cluster_U[:, None] == cluster_I, 1, 0.05)
        item = np.stack([rng.choice(NUM_ITEMS, CLICKS, False, row / row.sum()) for row in share_UI])
        item[:, -2:] = np.random.default_rng(held_out_seed).integers(NUM_ITEMS, size=(NUM_USERS, 2))
        centre = rng.normal(size=(NUM_CLUSTERS, 12))
        x_items = centre[cluster_I] + 0.3 * rng.normal(size=(NUM_ITEMS, 12))
        x_users = centre[cluster_U] + 0.3 * rng.normal(size=(NUM_USERS, 12))
        path = tmp_path / name
        write_artifact(
            path / "corpus",
            "corpus",
            {},
            {},
            lambda out: save_corpus_payload(
                out,
                user_idx=np.repeat(np.arange(NUM_USERS, dtype=np.int32), CLICKS),
                item_idx=item.reshape(-1).astype(np.int32),
                timestamp=np.tile(np.arange(CLICKS), NUM_USERS),
                split=np.tile(np.array([0] * (CLICKS - 2) + [1, 2], np.int8), NUM_USERS),
                users=pl.DataFrame({"user_id": [str(u) for u in range(NUM_USERS)]}),
                items=pl.DataFrame(
                    {
                        "item_id": [str(i) for i in range(NUM_ITEMS)],
                        "category": [f"c{c}" for c in cluster_I],
                    }
                ),
                impressions=None,
            ),
        )
        corpus = load_corpus(path / "corpus")

        def vectors(out: Path) -> None:
            np.save(out / "items.npy", x_items.astype(np.float32))
            np.save(out / "users.npy", x_users.astype(np.float32))

        write_artifact(path / "embeddings", "embeddings", {}, {"corpus": corpus.manifest}, vectors)
        return corpus, load_embeddings(path / "embeddings", corpus)

    return make
