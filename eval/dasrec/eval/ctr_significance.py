"""Intervals and tests over users for many CTR comparisons at once.

The user is the unit that is independent. GAUC, UAUC and LogLoss are ratios of sums over users, so
that a bootstrap needs each user's (numerator, weight) only, and one set of resamples serves every
comparison: it is a matrix product of the users' counts with all numerators. AUC over all rows is
no such ratio; its interval comes from each user's influence on it (Obuchowski, 1997): DeLong's
variance for rows that come in clusters, which needs no resampling.

Shape letters: U users, K comparisons, B resamples, M rows.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from dasrec.core.seeding import generator

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

_BLOCK = 1 << 23  # numbers at a time: bounds the memory of a (block of B, U) array


class Intervals(NamedTuple):
    """K estimates with the ends of their intervals and two-sided p-values."""

    value: Floats
    low: Floats
    high: Floats
    p_value: Floats


def ratio_intervals(
    numerators_UK: npt.ArrayLike,
    weights_UK: npt.ArrayLike,
    *,
    level: float = 0.95,
    num_samples: int = 10_000,
    seed: int = 0,
) -> Intervals:
    """Test ratios sum_u a_uk / sum_u w_uk against 0, users resampled.

    Intervals are those of the percentile bootstrap (Efron, 1979), U users drawn with replacement;
    p-values are of the randomisation test that swaps the two arms of a user at random, i.e. changes
    the sign of a_uk: p = (1 + #{|T| >= |T observed|}) / (1 + B), never 0. All K share the draws.

    Args:
        numerators_UK: (U, K) a; e.g. weight times difference of two models' user AUCs.
        weights_UK: (U, K) w >= 0; 0 where a user has no part in comparison k.
        level: coverage wanted.
        num_samples: B.
        seed: of the draws.

    Raises:
        ValueError: other shapes, values that are not finite, or a comparison without weight.
    """
    numerator, weight = np.asarray(numerators_UK, float), np.asarray(weights_UK, float)
    if numerator.ndim != 2 or numerator.shape != weight.shape or not numerator.size:
        raise ValueError(
            f"significance: expected (U, K) twice, got {numerator.shape} and {weight.shape}"
        )
    if not np.isfinite(numerator).all() or not (weight >= 0).all() or not weight.any(0).all():
        raise ValueError("significance: expected finite values and some weight in every column")
    total = numerator.sum(0)
    # Most columns share their weights with others, of one slice: resample those once.
    distinct, column = np.unique(weight, axis=1, return_inverse=True)
    # Single precision halves the time; scaled, because it has a narrow range as well.
    scale = np.abs(numerator).max(0).clip(min=np.finfo(float).tiny)
    share, mass = (numerator / scale).astype(np.float32), distinct.astype(np.float32)
    observed = np.abs(share.sum(0, dtype=float)) - 1e-6 * np.abs(share).sum(0)
    ratios, extreme = [], np.zeros(len(total))
    for counts, signs in _draws(len(numerator), num_samples, seed):
        # a resample that misses all of a small slice's users has no ratio
        with np.errstate(invalid="ignore"):
            ratios.append((counts @ share) / (counts @ mass)[:, column])
        extreme += (np.abs(signs @ share) >= observed).sum(0)
    tail = (1 - level) / 2
    low, high = np.nanquantile(np.concatenate(ratios), [tail, 1 - tail], axis=0) * scale
    return Intervals(total / weight.sum(0), low, high, (1 + extreme) / (1 + num_samples))


def _draws(num_users: int, num_samples: int, seed: int) -> Iterator[tuple[Singles, Singles]]:
    """Blocks of (rows, U) how often each user is drawn, and of (rows, U) signs."""
    resampling, swapping = generator(seed, "bootstrap"), generator(seed, "randomisation")
    block = max(1, _BLOCK // num_users)
    for first in range(0, num_samples, block):
        rows = min(block, num_samples - first)
        counts = np.empty((rows, num_users), np.float32)
        for row in counts:
            row[:] = np.bincount(resampling.integers(0, num_users, num_users), minlength=num_users)
        signs = swapping.integers(0, 2, (rows, num_users), np.int8) * np.float32(2) - np.float32(1)
        yield counts, signs


def auc_influence(
    users: npt.ArrayLike, labels: npt.ArrayLike, scores: npt.ArrayLike, num_users: int
) -> Floats:
    """(U,) influence of each user on the AUC of all rows; they add up to 0.

    r_u = sum_{i in u, positive} (F_-(s_i) - AUC) / P
        + sum_{j in u, negative} (1 - F_+(s_j) - AUC) / N
    with F_- and F_+ the shares of negatives and positives below a score (ties by half). The
    variance of the AUC under sampling of users is U / (U - 1) sum_u r_u^2 (Obuchowski, 1997).

    Args:
        users: (M,) 0..U - 1.
        labels: (M,) 0 or 1, both present.
        scores: (M,)
        num_users: U.
    """
    user, label = np.asarray(users), np.asarray(labels, np.bool_)
    _, score = np.unique(np.asarray(scores), return_inverse=True)
    below = [_share_below(score, score[~label]), _share_below(score, score[label])]
    won = np.where(label, below[0], 1 - below[1])
    auc = won[label].mean()
    share = (won - auc) / np.where(label, label.sum(), (~label).sum())
    return np.bincount(user, share, minlength=num_users).astype(np.float64)


def influence_intervals(
    values_K: npt.ArrayLike, influences_UK: npt.ArrayLike, *, level: float = 0.95
) -> Intervals:
    """Normal intervals and p-values of estimates from the users' influences on them.

    Args:
        values_K: (K,) estimates, e.g. differences of two models' AUCs.
        influences_UK: (U, K) differences of `auc_influence`; 0 for a user without a row.
        level: coverage wanted.
    """
    value, influence = np.asarray(values_K, float), np.asarray(influences_UK, float)
    users = np.maximum((influence != 0).sum(0), 2)
    deviation = np.sqrt(users / (users - 1) * np.square(influence).sum(0))
    half = norm.ppf((1 + level) / 2) * deviation
    size = np.divide(np.abs(value), deviation, out=np.full(len(value), np.inf), where=deviation > 0)
    p_value = np.where((deviation == 0) & (value == 0), 1, 2 * norm.sf(size))
    return Intervals(value, value - half, value + half, p_value)


def _share_below(rank: npt.NDArray[np.int64], others: npt.NDArray[np.int64]) -> Floats:
    """Share of `others` below each rank, equal ones by half; ranks are dense from 0."""
    count = np.bincount(others, minlength=int(rank.max()) + 1)
    at_or_below = np.cumsum(count)
    return np.asarray((at_or_below - count / 2)[rank] / len(others), np.float64)
