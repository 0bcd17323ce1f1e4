"""Intervals over users against resampling by hand and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dasrec.eval.ctr_significance import auc_influence, influence_intervals, ratio_intervals
from dasrec.eval.significance import bootstrap_interval, randomisation_test


def log(num_users: int, rows_each: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Rows whose users differ in click rate, so that rows of one user are dependent."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(num_users), rows_each)
    mood = rng.normal(size=num_users)[user]
    label = rng.random(len(user)) < 1 / (1 + np.exp(1 - mood))
    score = np.round(rng.normal(size=len(user)) + 0.7 * label + 0.5 * mood, 1)
    return user, label, score


def test_intervals_equal_those_of_single_comparisons() -> None:
    rng = np.random.default_rng(1)
    value, count = rng.normal(0.1, 1, (60, 3)), rng.integers(1, 9, (60, 3)).astype(float)
    got = ratio_intervals(value * count, count, num_samples=4000)
    for k in range(3):
        users = np.repeat(np.arange(60), count[:, k].astype(int))
        rows = np.repeat(value[:, k], count[:, k].astype(int))
        alone = bootstrap_interval(rows, users, num_samples=4000, seed=3)
        assert got.value[k] == pytest.approx(alone.mean, abs=1e-12)
        width = alone.high - alone.low
        assert got.low[k] == pytest.approx(alone.low, abs=0.05 * width)
        assert got.high[k] == pytest.approx(alone.high, abs=0.05 * width)
        p = randomisation_test(rows, np.zeros(len(rows)), users, num_samples=4000)
        assert got.p_value[k] == pytest.approx(p, abs=0.03)


def test_users_without_weight_do_not_matter_and_nothing_is_no_difference() -> None:
    rng = np.random.default_rng(2)
    value = np.concatenate([rng.normal(size=(40, 1)), np.zeros((40, 1))], axis=1)
    weight = np.ones((40, 2))
    weight[20:, 0] = 0
    value[20:, 0] = 0
    got = ratio_intervals(value, weight, num_samples=500)
    assert got.value[0] == pytest.approx(value[:20, 0].mean())
    assert (got.low[1], got.high[1], got.p_value[1]) == (0, 0, 1)
    again = ratio_intervals(value, weight, num_samples=500)
    assert all((one == two).all() for one, two in zip(got, again, strict=True))


def test_influence_is_the_change_of_the_auc_when_a_user_counts_more() -> None:
    user, label, score = log(25, 12)
    influence = auc_influence(user, label, score, 26)
    assert influence.sum() == pytest.approx(0, abs=1e-12)
    assert influence[25] == 0
    auc, step = roc_auc_score(label, score), 1e-6
    for u in range(25):
        more = roc_auc_score(label, score, sample_weight=1 + step * (user == u))
        assert influence[u] == pytest.approx((more - auc) / step, abs=1e-4)


def test_interval_of_the_auc_is_that_of_drawing_users() -> None:
    user, label, score = log(150, 10)
    auc = roc_auc_score(label, score)
    got = influence_intervals([auc], auc_influence(user, label, score, 150)[:, None])
    rng = np.random.default_rng(0)
    drawn = [
        roc_auc_score(
            label, score, sample_weight=np.bincount(rng.integers(0, 150, 150), minlength=150)[user]
        )
        for _ in range(1500)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert got.low[0] == pytest.approx(low, abs=0.006)
    assert got.high[0] == pytest.approx(high, abs=0.006)
    assert high - low > 0.03  # else the bounds above say nothing


def test_equal_models_do_not_differ() -> None:
    got = influence_intervals([0.0], np.zeros((5, 1)))
    assert (got.low[0], got.high[0], got.p_value[0]) == (0, 0, 1)


def test_refuses_a_comparison_without_users() -> None:
    with pytest.raises(ValueError, match="some weight"):
        ratio_intervals(np.ones((3, 1)), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="expected"):
        ratio_intervals(np.ones((3, 1)), np.ones((2, 1)))
