"""Ranking metrics over item lists: per query first, then the mean over queries.

Lists hold items, never SID strings: a SID that stands for several items must have been expanded
before. Conventions, the same in every function:

* A list is a row of `item_idx`, best first, -1 where it is shorter than the others. A short or
  empty list is not skipped: what it does not hold counts as a miss.
* The rank of a target starts at 1; 0 means that the list does not hold it. If a list holds an
  item twice, its first position counts, and it counts once.
* `recall@K` divides by the number of targets |T|, not by min(K, |T|). With one target it equals
  `hr@K`.
* `ndcg@K` has gains of 1 and the ideal of min(K, |T|) hits, so a perfect list scores 1 whatever
  |T| is (Jarvelin and Kekalainen, 2002). With one target it is 1 / log2(1 + rank).
* `map@K` is the mean over the |T| targets of the precision at their rank, 0 beyond K (trec_eval's).
  With one target it equals `mrr@K`.
* `mrr@K` is the reciprocal rank of the best-ranked target, 0 beyond K.
* Every query has at least one target; one without is an error, not a zero.

Shape letters: Q queries, W list width, T targets in all, I items.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from dasrec.core.corpus import Ragged

Ints = npt.NDArray[np.integer]
Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_BLOCK = 1 << 24  # comparisons at a time: bounds the memory of a boolean (rows, W) block


def rank_of_target(item_idx: Ints, targets: Ints) -> Int64s:
    """Rank of the only target of each query.

    Args:
        item_idx: (Q, W) lists, best first, -1 where there is no item.
        targets: (Q,) item index of each query's target.

    Returns:
        (Q,) rank from 1, 0 where the list does not hold the target.

    Raises:
        ValueError: shapes that do not fit, or a negative target.

    >>> rank_of_target(np.array([[4, 7, 2], [7, -1, -1]]), np.array([2, 4]))
    array([3, 0])
    """
    item_idx, targets = np.asarray(item_idx), np.asarray(targets)
    if item_idx.ndim != 2 or targets.shape != item_idx.shape[:1]:
        raise ValueError(
            f"rank_of_target: expected item_idx (Q, W) and targets (Q,), got {item_idx.shape} "
            f"and {targets.shape}; for several targets a query use ranks_of_targets"
        )
    return _first_match(item_idx, np.arange(len(targets)), targets)


def ranks_of_targets(item_idx: Ints, targets: Ragged) -> Int64s:
    """Rank of every target where queries have several.

    Args:
        item_idx: (Q, W) lists, best first, -1 where there is no item.
        targets: Q rows of different item indices.

    Returns:
        (T,) ranks in the order of `targets.values`, 0 where the list does not hold the target;
        pass them to the metrics together with `targets.starts`.

    Raises:
        ValueError: another number of rows than lists, a query without a target, a repeated or a
            negative target.

    >>> lists = np.array([[4, 7, 2], [7, -1, -1]])
    >>> ranks_of_targets(lists, Ragged(np.array([2, 9, 7]), np.array([0, 2, 3])))
    array([3, 0, 1])
    """
    item_idx, starts = np.asarray(item_idx), np.asarray(targets.starts)
    if item_idx.ndim != 2 or len(starts) != len(item_idx) + 1:
        raise ValueError(
            f"ranks_of_targets: expected lists (Q, W) and Q rows of targets, got "
            f"{item_idx.shape} and {len(starts) - 1} rows"
        )
    lengths = np.diff(starts)
    if (lengths < 1).any():
        raise ValueError(
            f"ranks_of_targets: query {int(lengths.argmin())} has no target; leave it out"
        )
    row = np.repeat(np.arange(len(item_idx)), lengths)
    values = np.asarray(targets.values)
    order = np.lexsort((values, row))
    if ((np.diff(row[order]) == 0) & (np.diff(values[order]) == 0)).any():
        raise ValueError("ranks_of_targets: a query names one target twice; keep it once")
    return _first_match(item_idx, row, values)


def _first_match(item_idx: Ints, row: Int64s, targets: Ints) -> Int64s:
    if len(targets) and targets.min() < 0:
        raise ValueError(f"targets: item indices start at 0, got {int(targets.min())}")
    ranks = np.zeros(len(targets), np.int64)
    step = max(1, _BLOCK // max(1, item_idx.shape[1]))
    for first in range(0, len(targets) if item_idx.shape[1] else 0, step):
        part = slice(first, first + step)
        match = item_idx[row[part]] == targets[part, None]
        ranks[part] = np.where(match.any(1), match.argmax(1) + 1, 0)
    return ranks


def recall_at_k(ranks: Int64s, k: int, starts: Int64s | None = None) -> Floats:
    """Share of a query's targets among its first K: |T in top K| / |T|.

    Args:
        ranks: from `rank_of_target`, or from `ranks_of_targets` together with `starts`.
        k: cut-off.
        starts: (Q + 1,) row starts of the targets where queries have several.

    Returns:
        (Q,) value of every query; `.mean()` is the metric.

    >>> recall_at_k(np.array([3, 0, 1]), 2)
    array([0., 0., 1.])
    >>> recall_at_k(np.array([3, 0, 1]), 3, starts=np.array([0, 2, 3]))  # 1 of 2, 1 of 1
    array([0.5, 1. ])
    """
    hits = _within(ranks, k).astype(np.float64)
    if starts is None:
        return hits
    return np.asarray(np.add.reduceat(hits, starts[:-1]) / np.diff(starts))


def hr_at_k(ranks: Int64s, k: int, starts: Int64s | None = None) -> Floats:
    """Hit rate: 1 if any target is among the first K, else 0. Arguments as `recall_at_k`.

    >>> hr_at_k(np.array([3, 0, 0]), 3, starts=np.array([0, 2, 3]))
    array([1., 0.])
    """
    hits = _within(ranks, k).astype(np.float64)
    return hits if starts is None else np.asarray(np.maximum.reduceat(hits, starts[:-1]))


def ndcg_at_k(ranks: Int64s, k: int, starts: Int64s | None = None) -> Floats:
    """Sum of 1 / log2(1 + rank) over targets in the first K, over that of an ideal list.

    The ideal list starts with min(K, |T|) targets. Arguments as `recall_at_k`.

    >>> ndcg_at_k(np.array([1, 3, 0]), 5)
    array([1. , 0.5, 0. ])
    >>> ndcg_at_k(np.array([3, 2]), 5, starts=np.array([0, 2])).round(4)  # (1/2 + .6309) / 1.6309
    array([0.6934])
    """
    inside = _within(ranks, k)
    gain = np.where(inside, 1 / np.log2(1 + np.maximum(ranks, 1)), 0.0)
    if starts is None:
        return gain
    most = np.diff(starts)
    ideal = np.cumsum(1 / np.log2(np.arange(2, 2 + max(1, int(most.max(initial=1))))))
    return np.asarray(np.add.reduceat(gain, starts[:-1]) / ideal[np.minimum(most, k) - 1])


def mrr_at_k(ranks: Int64s, k: int, starts: Int64s | None = None) -> Floats:
    """1 / rank of the best-ranked target, 0 beyond K. Arguments as `recall_at_k`.

    >>> mrr_at_k(np.array([1, 4, 0]), 5)
    array([1.  , 0.25, 0.  ])
    """
    gain = np.where(_within(ranks, k), 1 / np.maximum(ranks, 1), 0.0)
    return gain if starts is None else np.asarray(np.maximum.reduceat(gain, starts[:-1]))


def map_at_k(ranks: Int64s, k: int, starts: Int64s | None = None) -> Floats:
    """Average precision: precision at the rank of each hit in the first K, over |T|.

    Arguments as `recall_at_k`.

    >>> map_at_k(np.array([1, 4, 0]), 5)
    array([1.  , 0.25, 0.  ])
    >>> map_at_k(np.array([4, 0, 1]), 5, starts=np.array([0, 3]))  # (1/1 + 2/4) / 3
    array([0.5])
    """
    if starts is None:
        return mrr_at_k(ranks, k)
    inside = _within(ranks, k)
    lengths = np.diff(starts)
    row = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((np.where(inside, ranks, np.iinfo(np.int64).max), row))  # hits first
    hits_so_far = np.arange(len(ranks)) - starts[:-1][row] + 1  # at the hits, which lead their row
    precision = np.where(inside[order], hits_so_far / np.maximum(ranks[order], 1), 0.0)
    return np.asarray(np.add.reduceat(precision, starts[:-1]) / lengths)


def _within(ranks: Int64s, k: int) -> npt.NDArray[np.bool_]:
    if k < 1:
        raise ValueError(f"ranking metrics: k must be at least 1, got {k}")
    ranks = np.asarray(ranks)
    return (ranks >= 1) & (ranks <= k)


RANKING_METRICS: dict[str, Callable[[Int64s, int, Int64s | None], Floats]] = {
    "recall": recall_at_k,
    "ndcg": ndcg_at_k,
    "hr": hr_at_k,
    "mrr": mrr_at_k,
    "map": map_at_k,
}
"""Accuracy metrics by name: (ranks, k, starts) -> (Q,) values."""


def per_query_metrics(
    ranks: Int64s, ks: Sequence[int], starts: Int64s | None = None
) -> dict[str, Floats]:
    """All accuracy metrics of every query, e.g. {"recall@10": (Q,) values, ...}.

    Args:
        ranks: from `rank_of_target`, or from `ranks_of_targets` together with `starts`.
        ks: cut-offs.
        starts: (Q + 1,) row starts of the targets where queries have several.
    """
    return {
        f"{name}@{k}": metric(ranks, k, starts)
        for k in ks
        for name, metric in RANKING_METRICS.items()
    }


def metrics_of_ranks(
    ranks: Int64s, ks: Sequence[int], starts: Int64s | None = None
) -> dict[str, float]:
    """Means over queries of `per_query_metrics`, from ranks that are already known.

    Raises:
        ValueError: no query, or a cut-off below 1.
    """
    if (len(ranks) if starts is None else len(starts) - 1) == 0:
        raise ValueError("ranking metrics: no query to average over")
    values = per_query_metrics(ranks, ks, starts)
    return {name: float(value.mean()) for name, value in values.items()}


def ranking_metrics(
    item_idx: Ints, targets: Ints | Ragged, ks: Sequence[int] = (5, 10, 20)
) -> dict[str, float]:
    """Recall, NDCG, hit rate, MRR and MAP at every cut-off, mean over queries.

    Args:
        item_idx: (Q, W) lists, best first, -1 where there is no item.
        targets: (Q,) one target a query, or Q ragged rows of several.
        ks: cut-offs.

    Raises:
        ValueError: no query, shapes that do not fit, or a cut-off below 1.

    >>> lists, targets = np.array([[4, 7, 2], [7, -1, -1]]), np.array([7, 4])  # ranks 2 and 0
    >>> {name: round(v, 4) for name, v in ranking_metrics(lists, targets, ks=(1, 2)).items()}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'recall@1': 0.0, 'ndcg@1': 0.0, 'hr@1': 0.0, 'mrr@1': 0.0, 'map@1': 0.0,
     'recall@2': 0.5, 'ndcg@2': 0.3155, 'hr@2': 0.5, 'mrr@2': 0.25, 'map@2': 0.25}
    """
    if isinstance(targets, Ragged):
        return metrics_of_ranks(ranks_of_targets(item_idx, targets), ks, targets.starts)
    return metrics_of_ranks(rank_of_target(item_idx, targets), ks)
