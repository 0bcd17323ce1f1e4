"""Arms against each other on the same rows: user by user, and seed by seed.

Per user a metric is averaged over the seeds that both arms have; users are then resampled. That
answers whether the difference would hold for other users; the t test over seeds answers whether
it would hold for other trainings.

Shape letters: U users, K comparisons.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.stats import ttest_1samp

from dasrec.eval.ctr_metrics import auc, row_losses, user_aucs
from dasrec.eval.ctr_significance import (
    Floats,
    Intervals,
    auc_influence,
    influence_intervals,
    ratio_intervals,
)
from dasrec.eval.significance import holm
from dasrec.ranking.compare.arms import ArmResult
from dasrec.ranking.compare.config import Arm
from dasrec.ranking.compare.figures import Results
from dasrec.ranking.compare.slices import AGAINST_ALL, Bools

PRIMARY = (("gauc", "all"), ("gauc", "unseen"))
"""The endpoints declared before anything is measured; the others explain them."""

METRICS = ("auc", "gauc", "uauc", "logloss")
MIN_USERS = 20
"""A slice needs so many users with both labels to be compared."""


class ArmComparison(NamedTuple):
    """One arm against another by one metric in one slice."""

    arm: str
    against: str
    slice: str
    metric: str
    seeds: tuple[int, ...]
    num_users: int
    mean: float
    """Of the arm, over seeds."""
    mean_against: float
    difference: float
    """arm - against; positive is better, except for logloss."""
    low: float
    """95% interval over users."""
    high: float
    p_value: float
    """Two-sided, over users."""
    p_holm: float
    """Adjusted over arms and slices: of the primary endpoints together, of any other metric by
    itself."""
    p_seeds: float | None
    """Paired t test over seeds; None with one seed."""
    primary: bool
    """A declared endpoint."""


class _Part(NamedTuple):
    """One comparison before its test."""

    labels: tuple[str, str, str, str]
    seeds: tuple[int, ...]
    values: tuple[list[float], list[float]]
    """Per seed: of the arm, and of the other."""
    numerator_U: Floats
    """User's share of the difference; for auc the influence."""
    weight_U: Floats


def compare_arms(
    planned: Mapping[str, Arm], results: Results, num_users: int, num_samples: int
) -> list[ArmComparison]:
    """Every arm against the arms it names, by every metric, in every slice.

    Args:
        planned: names the pairs.
        results: finished arms; pairs that lack one are left out.
        num_users: U of the corpus.
        num_samples: resamples.
    """
    parts = [
        part
        for arm in planned.values()
        for other in arm.against
        if arm.name in results.arms and other in results.arms
        for part in _pair(arm.name, other, results, num_users)
    ]
    if not parts:
        return []
    tested = _test(parts, num_samples)
    adjusted = _adjusted([part.labels for part in parts], tested.p_value)
    return [
        ArmComparison(
            *part.labels,
            seeds=part.seeds,
            num_users=int((part.weight_U > 0).sum()),
            mean=float(np.mean(part.values[0])),
            mean_against=float(np.mean(part.values[1])),
            difference=float(tested.value[k]),
            low=float(tested.low[k]),
            high=float(tested.high[k]),
            p_value=float(tested.p_value[k]),
            p_holm=float(adjusted[k]),
            p_seeds=_p_over_seeds(*part.values),
            primary=_is_primary(part.labels),
        )
        for k, part in enumerate(parts)
    ]


def _pair(arm: str, other: str, results: Results, num_users: int) -> list[_Part]:
    """All metrics and slices of one pair."""
    one, two = results.arms[arm], results.arms[other]
    seeds = [seed for seed in one if seed in two]
    names = dict.fromkeys(name for seed in seeds for name in results.slices[seed])
    parts = []
    for name in names:
        for metric in METRICS:
            if metric == "logloss" and name.endswith(AGAINST_ALL):
                continue
            measured = [
                (seed, found)
                for seed in seeds
                if (mask := results.slices[seed].get(name)) is not None
                and (found := _measure(metric, one[seed], two[seed], mask, num_users)) is not None
            ]
            if measured:
                parts.append(_joined((arm, other, name, metric), measured))
    return [part for part in parts if (part.weight_U > 0).sum() >= MIN_USERS]


def _joined(
    labels: tuple[str, str, str, str],
    measured: list[tuple[int, tuple[float, float, Floats, Floats]]],
) -> _Part:
    seeds, found = zip(*measured, strict=True)
    values_a, values_b, numerators, weights = zip(*found, strict=True)
    return _Part(
        labels,
        tuple(seeds),
        (list(values_a), list(values_b)),
        np.mean(numerators, axis=0),
        np.mean(weights, axis=0),
    )


def _measure(
    metric: str, one: ArmResult, two: ArmResult, mask: Bools, num_users: int
) -> tuple[float, float, Floats, Floats] | None:
    """The metric of both, (U,) numerators and (U,) weights; None where it has no value."""
    user, label = one.user_idx[mask], one.label[mask]
    scores = (one.logit[mask], two.logit[mask])
    if metric == "logloss":
        losses = [row_losses(label, score) for score in scores]
        means = (float(losses[0].mean()), float(losses[1].mean()))
        rows = np.bincount(user, minlength=num_users)
        difference = np.bincount(user, losses[0] - losses[1], minlength=num_users)
        return *means, difference.astype(np.float64), rows.astype(np.float64)
    if label.min() == label.max():
        return None
    if metric == "auc":
        influence = [auc_influence(user, label, score, num_users) for score in scores]
        seen = (np.bincount(user, minlength=num_users) > 0).astype(np.float64)
        return auc(label, scores[0]), auc(label, scores[1]), influence[0] - influence[1], seen
    groups = [user_aucs(user, label, score) for score in scores]
    users = groups[0].users
    if not len(users):
        return None
    weight = groups[0].weights if metric == "gauc" else np.ones(len(users))
    numerator_U, weight_U = np.zeros(num_users), np.zeros(num_users)
    numerator_U[users] = weight * (groups[0].aucs - groups[1].aucs)
    weight_U[users] = weight
    return getattr(groups[0], metric), getattr(groups[1], metric), numerator_U, weight_U


def _test(parts: list[_Part], num_samples: int) -> Intervals:
    """Intervals and p-values in the order of the parts."""
    is_auc = np.array([part.labels[3] == "auc" for part in parts])
    columns: list[Floats] = [np.zeros(len(parts)) for _ in Intervals._fields]
    for chosen, tested in (
        (is_auc, _test_aucs([part for part in parts if part.labels[3] == "auc"])),
        (~is_auc, _test_ratios([p for p in parts if p.labels[3] != "auc"], num_samples)),
    ):
        if tested is not None:
            for column, values in zip(columns, tested, strict=True):
                column[chosen] = values
    return Intervals(*columns)


def _test_aucs(parts: list[_Part]) -> Intervals | None:
    if not parts:
        return None
    difference = [float(np.mean(p.values[0]) - np.mean(p.values[1])) for p in parts]
    return influence_intervals(difference, np.stack([p.numerator_U for p in parts], axis=1))


def _test_ratios(parts: list[_Part], num_samples: int) -> Intervals | None:
    if not parts:
        return None
    numerator_UK = np.stack([part.numerator_U for part in parts], axis=1)
    weight_UK = np.stack([part.weight_U for part in parts], axis=1)
    present = weight_UK.any(1)  # users of the corpus without a test row are no part of the sample
    return ratio_intervals(numerator_UK[present], weight_UK[present], num_samples=num_samples)


def _adjusted(labels: list[tuple[str, str, str, str]], p_value: Floats) -> Floats:
    family = np.array(
        ["primary" if _is_primary(label) else label[3] for label in labels], dtype=object
    )
    adjusted = np.ones(len(labels))
    for name in set(family):
        adjusted[family == name] = holm(p_value[family == name])
    return adjusted


def _is_primary(labels: tuple[str, str, str, str]) -> bool:
    return (labels[3], labels[2]) in PRIMARY


def _p_over_seeds(one: list[float], two: list[float]) -> float | None:
    difference = np.subtract(one, two)
    if len(difference) < 2:
        return None
    if np.ptp(difference) == 0:
        return 1.0 if difference[0] == 0 else 0.0
    p = float(ttest_1samp(difference, 0).pvalue)
    return None if math.isnan(p) else p
