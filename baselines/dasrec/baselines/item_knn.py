r"""Sequence-neighbour item-kNN: items that stood near each other in other users' histories.

    S(q, j) = sum_{i in history} r_i^-rho * C(i, j) / (n_i n_j)^pi
    C(i, j) = sum over training pairs of one user at distance d <= window of d^-delta,
              times `backward_weight` where j came before i

r_i is the recency of i (1 = last event before the query), n the training counts. No learning. With
backward_weight 1, rho = delta = 1 and pi = 0 it is the plain co-occurrence rule; tuned powers are
the usual item-to-item refinements (Linden et al. 2003, doi:10.1109/MIC.2003.1167344; sequence- and
recency-aware neighbours: Ludewig and Jannach 2018, arXiv:1803.09587).

Shape letters: I items, B queries of a block.
"""

import logging
import time
from pathlib import Path

import numpy as np
from pydantic import Field
from scipy import sparse

from dasrec.core import Corpus, Manifest, write_recommendations
from dasrec.core.catalogue_lists import Floats, ListsConfig, recommend_blocks
from dasrec.core.corpus import Int64s

log = logging.getLogger(__name__)


ALL_EVENTS = 1 << 30
"""A history length that no user has."""


class ItemKnnConfig(ListsConfig):
    """Weights of the neighbour rule; the defaults were chosen on validation."""

    window: int = Field(8, ge=1)
    """Two events of a user are neighbours up to this many places apart."""

    distance_power: float = Field(0.5, ge=0)
    """delta: a pair at distance d counts d^-delta; 0 = every pair alike."""

    backward_weight: float = Field(0.1, ge=0, le=1)
    """Weight of recommending what came *before* an item; 1 = order ignored."""

    max_history: int = Field(20, ge=1)
    """Latest events of the user that vote."""

    recency_power: float = Field(1.5, ge=0)
    """rho: the r-th latest event counts r^-rho; 0 = every event alike."""

    popularity_power: float = Field(0.1, ge=0)
    """pi: scores are divided by (n_i n_j)^pi; 0.5 = cosine, 0 = raw counts."""


class CooccurrenceConfig(ListsConfig):
    """The plain rule: co-occurrence within a window, near and late counts more, nothing tuned.

    Two events d places apart count 1/d, in either order; the r-th latest event of the history
    votes with 1/r.
    """

    window: int = Field(5, ge=1)
    """Two events of a user are neighbours up to this many places apart."""

    @property
    def rule(self) -> ItemKnnConfig:
        """The same as weights of item-kNN."""
        return ItemKnnConfig(
            width=self.width,
            exclude_seen=self.exclude_seen,
            window=self.window,
            distance_power=1.0,
            backward_weight=1.0,
            max_history=ALL_EVENTS,
            recency_power=1.0,
            popularity_power=0.0,
        )


def recommend_item_knn(
    config: ItemKnnConfig, corpus: Corpus, out: Path, *, seed: int = 0, replace: bool = False
) -> Manifest:
    """Count neighbours in the training sequences and rank items for validation and test queries.

    Items without a vote follow in order of popularity, with scores below 0.

    Args:
        config: weights of the rule.
        corpus: neighbours come from its training interactions; votes from all events of the user
            before the query.
        out: directory of the Recommendations artifact.
        seed: kept in the manifest; nothing here is random.
        replace: swap an artifact that is already at `out`.
    """
    return _recommend(config, config, corpus, out, seed, replace)


def recommend_cooccurrence(
    config: CooccurrenceConfig, corpus: Corpus, out: Path, *, seed: int = 0, replace: bool = False
) -> Manifest:
    """Rank items by how often they stood near an item of the history, as the config says.

    Arguments as `recommend_item_knn`.
    """
    return _recommend(config.rule, config, corpus, out, seed, replace)


def _recommend(
    rule: ItemKnnConfig, config: ListsConfig, corpus: Corpus, out: Path, seed: int, replace: bool
) -> Manifest:
    """Lists of `rule`; the manifest keeps `config`."""
    began = time.perf_counter()
    neighbours_II = count_neighbours(rule, corpus)
    log.info("neighbours: %d pairs", neighbours_II.nnz)
    filler_I = (-1 / (1 + corpus.train_item_count)).astype(np.float32)

    def score(queries: Int64s) -> Floats:
        votes_BI = (_history_weights(rule, corpus, queries) @ neighbours_II).toarray()
        return np.where(votes_BI > 0, votes_BI.astype(np.float32), filler_I)

    recommendations = recommend_blocks(corpus, rule.width, rule.exclude_seen, score)
    return write_recommendations(
        out,
        config.as_json(),
        {"corpus": corpus.manifest},
        recommendations,
        seed=seed,
        metrics={
            "seconds": round(time.perf_counter() - began, 2),
            "num_pairs": int(neighbours_II.nnz),
            "filled_share": round(float((recommendations.score < 0).mean()), 6),
        },
        replace=replace,
    )


def count_neighbours(config: ItemKnnConfig, corpus: Corpus) -> sparse.csr_array:
    """(I, I) float64: entry (i, j) is the vote of i for j, C(i, j) / (n_i n_j)^pi.

    The diagonal is empty: an item never votes for itself.
    """
    sequences, num_items = corpus.train_sequences, corpus.num_items
    items = sequences.values
    user = np.repeat(np.arange(corpus.num_users), np.diff(sequences.starts))
    forward = sparse.csr_array((num_items, num_items), dtype=np.float64)
    for distance in range(1, config.window + 1):
        earlier, later = items[:-distance], items[distance:]
        pair = (user[:-distance] == user[distance:]) & (earlier != later)
        weight = np.full(int(pair.sum()), float(distance) ** -config.distance_power)
        shape = (num_items, num_items)
        forward = forward + sparse.csr_array((weight, (earlier[pair], later[pair])), shape=shape)
    votes = forward + config.backward_weight * forward.T if config.backward_weight else forward
    damping = sparse.diags_array(
        np.maximum(corpus.train_item_count, 1.0) ** -config.popularity_power
    )
    return sparse.csr_array(damping @ votes @ damping)


def _history_weights(config: ItemKnnConfig, corpus: Corpus, queries: Int64s) -> sparse.csr_array:
    """(B, I): r^-rho of every item in a query's history, summed where it occurs repeatedly."""
    histories = corpus.histories(queries, config.max_history)
    lengths = np.diff(histories.starts)
    recency = np.repeat(histories.starts[1:], lengths) - np.arange(len(histories.values))
    row = np.repeat(np.arange(len(queries)), lengths)
    weight = recency.astype(np.float64) ** -config.recency_power
    shape = (len(queries), corpus.num_items)
    return sparse.csr_array((weight, (row, histories.values)), shape=shape)
