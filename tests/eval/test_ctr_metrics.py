"""CTR metrics against scikit-learn and hand-computed values."""

import time

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from dasrec.eval import ctr_metrics as m


def sample(rows: int, users: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, rows)
    label = (rng.random(rows) < 0.3).astype(np.float32)
    score = np.round(rng.normal(size=rows) + 0.5 * label, 1)  # rounded: many ties
    return user, label, score


@pytest.mark.parametrize("seed", range(3))
def test_user_aucs_equal_a_loop_over_users_with_sklearn(seed: int) -> None:
    user, label, score = sample(3000, 400, seed)
    expected, weight, dropped = {}, {}, 0
    for u in np.unique(user):
        mine = user == u
        if 0 < label[mine].sum() < mine.sum():
            expected[u] = roc_auc_score(label[mine], score[mine])
            weight[u] = mine.sum()
        else:
            dropped += 1
    got = m.user_aucs(user, label, score)
    assert dropped > 0
    assert got.users.tolist() == list(expected)
    np.testing.assert_allclose(got.aucs, list(expected.values()), atol=1e-12)
    assert got.rows.tolist() == list(weight.values())
    assert got.num_dropped == dropped
    assert got.row_coverage == pytest.approx(sum(weight.values()) / 3000)
    average = np.average(list(expected.values()), weights=list(weight.values()))
    assert m.gauc(user, label, score) == pytest.approx(average, abs=1e-12)
    assert m.uauc(user, label, score) == pytest.approx(np.mean(list(expected.values())), abs=1e-12)


def test_auc_and_logloss_equal_sklearn() -> None:
    _, label, score = sample(5000, 10, 7)
    assert m.auc(label, score) == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    probability = 1 / (1 + np.exp(-score))
    assert m.logloss(label, score) == pytest.approx(log_loss(label, probability), abs=1e-12)


def test_hand_computed_example() -> None:
    # User 0: one positive above one of two negatives and tied with the other -> 0.75.
    # User 1: perfect -> 1. User 2: positives only -> dropped.
    user = [0, 1, 0, 0, 1, 2]
    label = [1, 0, 0, 0, 1, 1]
    score = [0.5, 0.1, 0.5, 0.2, 0.9, 0.3]
    got = m.user_aucs(user, label, score)
    assert got.aucs.tolist() == [0.75, 1.0]
    assert got.gauc == pytest.approx((3 * 0.75 + 2 * 1) / 5)
    assert got.uauc == pytest.approx(0.875)
    assert got.num_dropped == 1
    assert got.row_coverage == pytest.approx(5 / 6)


def test_calibration_of_two_bins() -> None:
    label = [0, 1, 0, 1, 1, 1]
    probability = [0.2, 0.2, 0.2, 0.8, 0.8, 0.8]
    assert m.pcoc(label, probability) == pytest.approx(3.0 / 4)
    # |0.2 - 1/3| and |0.8 - 1|, each with half of the mass
    assert m.ece(label, probability, num_bins=2) == pytest.approx((2 / 15 + 0.2) / 2)


def test_ece_of_calibrated_sample_is_at_its_floor() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(20_000)
    label = rng.random(20_000) < probability
    floor = m.ece_floor(probability)
    assert floor == pytest.approx(m.ece(label, probability), rel=0.3)
    assert m.ece(label, probability**2) > 5 * floor


def test_report_is_stable_for_huge_logits_and_counts_rows() -> None:
    user, label, score = sample(200, 20, 3)
    report = m.ctr_report(user, label, 1000 * score)
    assert np.isfinite([report["logloss"], report["ece"], report["pcoc"]]).all()
    assert report["num_rows"] == 200
    assert report["num_users"] + report["num_users_dropped"] == len(np.unique(user))


def test_one_label_or_nothing_gives_nan() -> None:
    assert np.isnan(m.auc([1, 1], [0.1, 0.2]))
    assert np.isnan(m.gauc([], [], []))
    assert np.isnan(m.pcoc([0, 0], [0.1, 0.2]))
    assert np.isnan(m.ctr_report([], [], [])["logloss"])


@pytest.mark.parametrize(
    ("labels", "scores"), [([0, 1], [0.1]), ([0, 2], [0.1, 0.2]), ([0, 1], [0.1, np.nan])]
)
def test_refuses_bad_input(labels: list[float], scores: list[float]) -> None:
    with pytest.raises(ValueError, match="ctr_metrics"):
        m.auc(labels, scores)


def test_a_million_rows_take_seconds() -> None:
    user, label, score = sample(1_000_000, 50_000, 1)
    began = time.perf_counter()
    m.user_aucs(user, label, score)
    assert time.perf_counter() - began < 10  # 0.5 s on two idle cores


@pytest.mark.parametrize("seed", range(2))
def test_weights_equal_sklearn_and_repeated_rows(seed: int) -> None:
    user, label, score = sample(900, 60, seed)
    weight = np.random.default_rng(seed).integers(1, 5, 900)
    probability = 1 / (1 + np.exp(-score))
    assert m.auc(label, score, weight) == pytest.approx(
        roc_auc_score(label, score, sample_weight=weight), abs=1e-12
    )
    assert m.logloss(label, score, weight) == pytest.approx(
        log_loss(label, probability, sample_weight=weight), abs=1e-12
    )
    weighted = m.ctr_report(user, label, score, weight)
    repeated = m.ctr_report(*(np.repeat(column, weight) for column in (user, label, score)))
    same = ("auc", "gauc", "uauc", "logloss", "ne", "pcoc", "num_users", "num_users_dropped")
    for name in same:
        assert weighted[name] == pytest.approx(repeated[name], abs=1e-12), name
    got = m.user_aucs(user, label, score, weight)
    for group, value, total in zip(got.users, got.aucs, got.weights, strict=True):
        mine = user == group
        expected = roc_auc_score(label[mine], score[mine], sample_weight=weight[mine])
        assert value == pytest.approx(expected, abs=1e-12)
        assert total == weight[mine].sum()


def test_weighted_ece_of_two_bins() -> None:
    label, probability, weight = [0, 1, 1, 0], [0.2, 0.2, 0.8, 0.8], [3.0, 1.0, 2.0, 2.0]
    # half of the mass 8 in each bin: |3 * 0.2 - 0.8| = 0.2 and |2 * 0.8 - 2 * 0.2| = 1.2
    assert m.ece(label, probability, 2, weight) == pytest.approx((0.2 + 1.2) / 8)
    assert m.pcoc(label, probability, weight) == pytest.approx((4 * 0.2 + 4 * 0.8) / 3)


def test_normalized_entropy_by_hand() -> None:
    label = [1, 0, 0, 0]
    assert m.normalized_entropy(label, np.full(4, np.log(1 / 3))) == pytest.approx(1)
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert m.normalized_entropy(label, np.zeros(4)) == pytest.approx(np.log(2) / entropy)
    assert np.isnan(m.normalized_entropy([1, 1], [0.1, 0.2]))


def test_no_figure_depends_on_the_order_of_rows() -> None:
    user, label, score = sample(500, 40, 5)
    order = np.random.default_rng(0).permutation(500)
    one = m.ctr_report(user, label, score)
    assert m.ctr_report(user[order], label[order], score[order]) == pytest.approx(one, abs=1e-12)


def test_refuses_weights_that_are_not_positive() -> None:
    with pytest.raises(ValueError, match="weights must be > 0"):
        m.logloss([0, 1], [0.1, 0.2], [1.0, 0.0])
