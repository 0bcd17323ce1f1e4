"""Everything that lists are measured by, at once: values per query, and figures of all queries.

Shape letters: Q queries, W list width, I items, D width of vectors, T targets.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dasrec.core.corpus import Ragged
from dasrec.eval.list_metrics import describe_lists
from dasrec.eval.list_values import (
    list_diversity,
    list_novelty,
    list_popularity,
    mean_known,
    popularity_gap,
    profile_popularity,
    serendipity_at_k,
)
from dasrec.eval.ranking_metrics import Floats, Int64s, Ints, per_query_metrics


class Backdrop(NamedTuple):
    """What lists are held against; what is missing leaves its metrics out."""

    train_item_count: Ints | None = None
    """(I,) training interactions: coverage, gini, popularity, novelty, invalid_rate and
    duplicate_rate."""
    profiles: Ragged | None = None
    """(Q rows) each query's history; with the counts: popularity_gap."""
    item_vectors: npt.NDArray[np.floating] | None = None
    """(I, D): diversity."""
    expected_ranks: Int64s | None = None
    """(T,) ranks of the targets in a primitive's lists: serendipity."""


NOTHING = Backdrop()


class Scorecard(NamedTuple):
    """Metrics at every cut-off, keyed `name@K`."""

    accuracy: dict[str, Floats]
    """(Q,) recall, ndcg, hr, mrr, map, and serendipity."""
    lists: dict[str, Floats]
    """(Q,) popularity, novelty and diversity, NaN where a list has none."""
    overall: dict[str, float]
    """Means of all these over the queries that have a value, and the figures of all lists together.
    What has no value for any query is left out."""


def score_lists(
    item_idx: Ints,
    ranks: Int64s,
    ks: Sequence[int],
    backdrop: Backdrop = NOTHING,
    starts: Int64s | None = None,
) -> Scorecard:
    """Measure lists by all that the backdrop allows.

    Args:
        item_idx: (Q, W) lists, best first, -1 where there is no item.
        ranks: (T,) ranks of the targets in them, 0 = not there.
        ks: cut-offs, ascending.
        backdrop: see `Backdrop`.
        starts: (Q + 1,) row starts of the targets where queries have several.

    Raises:
        ValueError: no query, or a cut-off below 1.
    """
    if len(item_idx) == 0:
        raise ValueError("ranking metrics: no query to average over")
    count, profiles, vectors, expected = backdrop
    accuracy = per_query_metrics(ranks, ks, starts)
    if expected is not None:
        accuracy |= {f"serendipity@{k}": serendipity_at_k(ranks, expected, k, starts) for k in ks}
    lists: dict[str, Floats] = {}
    overall: dict[str, float] = {}
    if count is not None:
        for k in ks:
            lists[f"popularity@{k}"] = list_popularity(item_idx, k, count)
            lists[f"novelty@{k}"] = list_novelty(item_idx, k, count)
            overall |= describe_lists(item_idx, k, count)
        if profiles is not None:
            history = profile_popularity(profiles, count)
            for k in ks:
                overall[f"popularity_gap@{k}"] = popularity_gap(lists[f"popularity@{k}"], history)
    if vectors is not None:
        values = list_diversity(item_idx, ks, vectors)
        lists |= {f"diversity@{k}": value for k, value in zip(ks, values, strict=True)}
    means = {name: mean_known(value) for name, value in (accuracy | lists).items()}
    known = {name: value for name, value in (means | overall).items() if not np.isnan(value)}
    return Scorecard(accuracy, lists, known)
