"""Dense retrieval: inner products of user and item vectors, nearest items by faiss.

The vectors are those of the collaborative model that a DAS tokenizer was trained with (its ICDM),
one per user and item, of unit length.

Shape letters: U users, Q queries, I items, K items with training interactions, D width, W items of
a list, N items asked of faiss.
"""

import time
from pathlib import Path
from typing import Literal

import faiss
import numpy as np
from pydantic import Field

from dasrec.core import Corpus, Manifest, Recommendations, write_recommendations
from dasrec.core.catalogue_lists import Floats, ListsConfig, queries_of, ranked_lists, seen_pairs
from dasrec.core.corpus import Int32s, Int64s

BLOCK = 4096
"""Queries searched at a time; never changes a result."""


class TwoTowerConfig(ListsConfig):
    """Dense retrieval with the collaborative vectors of a DAS tokenizer."""

    tokenizer: str
    """Name of the tokenizer (a key of `tokenizers`, method das)."""

    vectors: Literal["true", "fused"] = "true"
    """`true`: interest and property, popularity split off (what the SIDs are aligned to). `fused`:
    with popularity."""

    query: Literal["user", "history"] = "user"
    """`user`: the user's own vector, which knows the training events alone. `history`: the mean
    vector of the latest events before the query."""

    max_history: int = Field(20, ge=1)
    """Latest events whose mean stands for the user: under `history`, and for users without
    training events, whose own vector was never trained."""


def recommend_two_tower(
    config: TwoTowerConfig,
    corpus: Corpus,
    users_UD: Floats,
    items_ID: Floats,
    model: Manifest,
    out: Path,
    *,
    seed: int = 0,
    replace: bool = False,
) -> Manifest:
    """Nearest items of every validation and test query.

    Items without training interactions have no trained vector and are never listed.

    Args:
        config: which vectors were given, what stands for a query, and the lists.
        corpus: what the vectors were learned from.
        users_UD: unit vectors of all users.
        items_ID: unit vectors of all items.
        model: manifest of the artifact that the vectors come from.
        out: directory of the Recommendations artifact.
        seed: kept in the manifest; nothing here is random.
        replace: swap an artifact that is already at `out`.
    """
    began = time.perf_counter()
    known = np.flatnonzero(corpus.train_item_count)
    index = faiss.IndexFlatIP(items_ID.shape[1])
    index.add(np.ascontiguousarray(items_ID[known], np.float32))
    queries = queries_of(corpus)
    items = np.full((len(queries), config.width), -1, np.int32)
    scores = np.full((len(queries), config.width), -np.inf, np.float32)
    for start in range(0, len(queries), BLOCK):
        block = slice(start, start + BLOCK)
        vectors_QD = query_vectors(config, corpus, queries[block], users_UD, items_ID)
        items[block], scores[block] = _nearest(
            config, corpus, index, known, queries[block], vectors_QD
        )
    return write_recommendations(
        out,
        config.as_json(),
        {"corpus": corpus.manifest, "tokenizer": model},
        Recommendations(queries, items, scores),
        seed=seed,
        metrics={"seconds": round(time.perf_counter() - began, 2)},
        replace=replace,
    )


def query_vectors(
    config: TwoTowerConfig, corpus: Corpus, queries: Int64s, users_UD: Floats, items_ID: Floats
) -> Floats:
    """(Q, D): the user's vector, or the unit mean of the history's."""
    histories = corpus.histories(queries, config.max_history)
    lengths = np.diff(histories.starts)
    sums_QD = np.add.reduceat(items_ID[histories.values], histories.starts[:-1])
    means_QD = sums_QD / np.maximum(np.linalg.norm(sums_QD, axis=1, keepdims=True), 1e-12)
    assert (lengths > 0).all()  # a query has a history
    if config.query == "history":
        return np.asarray(means_QD, np.float32)
    users = corpus.user_idx[queries]
    trained = np.diff(corpus.train_sequences.starts)[users] > 0
    return np.where(trained[:, None], users_UD[users], means_QD).astype(np.float32)


def _nearest(
    config: TwoTowerConfig,
    corpus: Corpus,
    index: "faiss.IndexFlatIP",
    known: Int64s,
    queries: Int64s,
    vectors_QD: Floats,
) -> tuple[Int32s, Floats]:
    """(Q, W) items and scores; so many more are asked for as any of the queries has seen."""
    seen = np.empty(0, np.int64)
    extra = 0
    if corpus.excludes_seen(config.exclude_seen):
        place, had = seen_pairs(corpus, queries)
        seen, extra = place * corpus.num_items + had, int(np.bincount(place).max())
    scores_QN, found_QN = index.search(vectors_QD, min(len(known), config.width + extra))
    row = np.repeat(np.arange(len(queries)), found_QN.shape[1])
    item, score = known[found_QN.ravel()], scores_QN.ravel()
    kept = ~np.isin(row * corpus.num_items + item, seen)
    return ranked_lists(row[kept], item[kept], score[kept], len(queries), config.width)
