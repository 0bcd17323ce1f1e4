"""Confidence intervals and paired tests over users, from the values of single queries.

The user is what is drawn at random, so all queries of one user are drawn together. Users are
first reduced to (sum of values, number of queries) pairs. The bootstrap then needs only how often
each *different* pair is drawn, a multinomial draw over the different pairs: the same distribution
as drawing users one by one, at a cost that does not grow with the number of users.

Shape letters: Q queries, U users, P different pairs, B resamples.
"""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from dasrec.core.seeding import generator
from dasrec.eval.list_values import serendipity_at_k
from dasrec.eval.protocol import check_same
from dasrec.eval.ranking_metrics import RANKING_METRICS, Floats
from dasrec.eval.report import load_report

LIST_METRICS = ("popularity", "novelty", "diversity")
_BLOCK = 1 << 22  # draws at a time: bounds the memory of a (block of B, P) array


class Interval(NamedTuple):
    """A mean and its percentile bootstrap interval."""

    mean: float
    low: float
    high: float


class Comparison(NamedTuple):
    """Two methods on the same queries."""

    mean_a: float
    mean_b: float
    difference: float
    """mean_b - mean_a, so positive = b is better (for a metric where more is better)."""
    low: float
    high: float
    """Bootstrap interval of the difference."""
    p_value: float
    """Two-sided, of the randomisation test."""
    num_users: int


def bootstrap_interval(
    values: npt.ArrayLike,
    users: npt.ArrayLike | None = None,
    *,
    level: float = 0.95,
    num_samples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of the mean over queries, users resampled (Efron, 1979).

    Args:
        values: (Q,) metric of each query; for a paired interval, the differences.
        users: (Q,) integer user of each query; every query its own user without it.
        level: coverage wanted.
        num_samples: B.
        seed: of the resampling.

    Raises:
        ValueError: no values, unequal lengths, or values that are not finite.
    """
    sums, counts = _per_user(values, users)
    pairs, frequency = np.unique(np.stack([sums, counts], 1), axis=0, return_counts=True)
    rng = generator(seed, "bootstrap")
    block = max(1, _BLOCK // len(pairs))
    means = []
    for first in range(0, num_samples, block):
        drawn = rng.multinomial(
            len(sums), frequency / len(sums), size=min(block, num_samples - first)
        )
        total = drawn @ pairs
        means.append(total[:, 0] / total[:, 1])
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))


def randomisation_test(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    users: npt.ArrayLike | None = None,
    *,
    num_samples: int = 10_000,
    seed: int = 0,
) -> float:
    """Two-sided p-value of mean(b) - mean(a) under random swaps of a and b within users.

    Swapping a user's values changes the sign of that user's difference; users of equal |d| are
    swapped by one binomial draw. p = (1 + #{|T| >= |T observed|}) / (1 + B), never 0.

    Args:
        a: (Q,) metric of each query by one method.
        b: (Q,) the same queries by the other.
        users: (Q,) integer user of each query; every query its own user without it.
        num_samples: B.
        seed: of the swaps.

    Raises:
        ValueError: no values, unequal lengths, or values that are not finite.
    """
    sums, _ = _per_user(_difference(a, b), users)
    size, frequency = np.unique(np.abs(sums), return_counts=True)
    rng = generator(seed, "randomisation")
    observed = abs(float(sums.sum())) * (1 - 1e-9)  # equal sums differ by rounding
    block = max(1, _BLOCK // len(size))
    extreme = 0
    for first in range(0, num_samples, block):
        rows = min(block, num_samples - first)
        positive = rng.binomial(frequency, 0.5, size=(rows, len(size)))
        extreme += int((np.abs((2 * positive - frequency) @ size) >= observed).sum())
    return (1 + extreme) / (1 + num_samples)


def compare(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    users: npt.ArrayLike | None = None,
    *,
    level: float = 0.95,
    num_samples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Paired bootstrap interval and randomisation test of b against a, query by query."""
    difference = _difference(a, b)
    interval = bootstrap_interval(
        difference, users, level=level, num_samples=num_samples, seed=seed
    )
    p_value = randomisation_test(a, b, users, num_samples=num_samples, seed=seed)
    num_users = len(difference) if users is None else len(np.unique(np.asarray(users)))
    means = (float(np.mean(np.asarray(a))), float(np.mean(np.asarray(b))))
    return Comparison(*means, *interval, p_value, num_users)


def compare_reports(
    a: str | Path,
    b: str | Path,
    metric: str = "ndcg@10",
    *,
    split: str = "test",
    slice_name: str = "all",
    allow: Collection[str] = (),
    level: float = 0.95,
    num_samples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """`compare` on two eval_report artifacts.

    Args:
        a: report of one method.
        b: report of the other, on the same queries of the same corpus.
        metric: see `query_values`.
        split: "valid" or "test".
        slice_name: "all" or a slice that both reports have.
        allow: fields of the protocol that may differ, see `dasrec.eval.protocol.check_same`.
        level: coverage wanted.
        num_samples: resamples.
        seed: of the resampling.

    Raises:
        ValueError: reports of different corpora, protocols or queries, an unknown metric or slice.
    """
    one, two = load_report(a), load_report(b)
    if one.manifest.inputs["corpus"] != two.manifest.inputs["corpus"]:
        raise ValueError(f"compare: {a} and {b} are about different corpora")
    check_same({str(a): one.protocol, str(b): two.protocol}, allow)
    tables = [
        _chosen(report.per_query, path, split, slice_name) for report, path in ((one, a), (two, b))
    ]
    if not tables[0]["query"].equals(tables[1]["query"]):
        raise ValueError(f"compare: {a} and {b} hold different queries of {split}")
    values_a, values_b = (query_values(table, metric) for table in tables)
    both = np.isfinite(values_a) & np.isfinite(values_b)
    users = tables[0]["user_idx"].to_numpy()[both]
    return compare(
        values_a[both], values_b[both], users, level=level, num_samples=num_samples, seed=seed
    )


def query_values(table: pl.DataFrame, metric: str) -> Floats:
    """(Q,) a metric of each query of a report; NaN where the query's list has none.

    Args:
        table: the report's `per_query`, see `dasrec.eval.report.EvalReport`.
        metric: an accuracy metric, see `query_metric`, or "serendipity@K", "popularity@K",
            "novelty@K" or "diversity@K", of which the last three need a K of the report's.

    Raises:
        ValueError: an unknown metric, or one that the report does not hold.
    """
    name, _, k = metric.partition("@")
    if name in LIST_METRICS:
        if metric not in table.columns:
            raise ValueError(
                f"compare: the report does not hold '{metric}'; it needs an eval.ks with that K"
                + (" and embeddings" if name == "diversity" else "")
            )
        return table[metric].cast(pl.Float64).fill_null(np.nan).to_numpy()
    if name == "serendipity" and k.isdigit() and "expected_rank" in table.columns:
        ranks, expected = (table[c].fill_null(0).to_numpy() for c in ("rank", "expected_rank"))
        return serendipity_at_k(ranks, expected, int(k))
    return query_metric(table["rank"], metric)


def query_metric(rank: pl.Series, metric: str) -> Floats:
    """(Q,) a metric of each query of a report.

    Args:
        rank: (Q,) places of the targets from 1, null where the list does not hold it.
        metric: "recall@K", "ndcg@K", "hr@K", "mrr@K" or "map@K".

    Raises:
        ValueError: an unknown metric.
    """
    name, _, k = metric.partition("@")
    if name not in RANKING_METRICS or not k.isdigit():
        raise ValueError(
            f"compare: unknown metric '{metric}'; expected one of "
            f"{', '.join(RANKING_METRICS)} and @K"
        )
    return RANKING_METRICS[name](rank.fill_null(0).to_numpy(), int(k), None)


def holm(p_values: npt.ArrayLike) -> Floats:
    """Holm's (1979) step-down adjustment of p-values of one family of tests.

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def _chosen(table: pl.DataFrame, path: str | Path, split: str, slice_name: str) -> pl.DataFrame:
    table = table.filter(pl.col("split") == split)
    if slice_name != "all":
        column = f"slice.{slice_name}"
        if column not in table.columns:
            known = [c.removeprefix("slice.") for c in table.columns if c.startswith("slice.")]
            raise ValueError(f"{path}: no slice '{slice_name}'; known: {', '.join(known)}")
        table = table.filter(pl.col(column))
    if table.is_empty():
        raise ValueError(f"{path}: no query of {split} in '{slice_name}'")
    return table.sort("query")


def _difference(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    one, two = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if one.shape != two.shape:
        raise ValueError(f"significance: unequal lengths {one.shape} and {two.shape}")
    return two - one


def _per_user(values: npt.ArrayLike, users: npt.ArrayLike | None) -> tuple[Floats, Floats]:
    """(U,) sums and (U,) counts."""
    value = np.asarray(values, np.float64)
    if value.ndim != 1 or not len(value) or not np.isfinite(value).all():
        raise ValueError(f"significance: expected finite values (Q,), Q > 0, got {value.shape}")
    if users is None:
        return value, np.ones(len(value))
    user = np.asarray(users)
    if user.shape != value.shape:
        raise ValueError(f"significance: unequal lengths {value.shape} and {user.shape}")
    number = np.unique(user, return_inverse=True)[1]
    sums = np.bincount(number, value).astype(np.float64)
    return sums, np.bincount(number).astype(np.float64)
