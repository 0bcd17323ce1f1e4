from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from dasrec.core import Corpus
from dasrec.eval.ranking_metrics import ndcg_at_k
from dasrec.eval.report import EvalConfig, evaluate_recommendations, load_report
from dasrec.eval.significance import (
    bootstrap_interval,
    compare,
    compare_reports,
    holm,
    randomisation_test,
)


def test_interval_equals_a_bootstrap_that_draws_users_one_by_one() -> None:
    rng = np.random.default_rng(0)
    users = rng.integers(0, 80, 300)
    values = rng.choice([0.0, 0.5, 1.0], 300) * (users % 3)
    rows = [np.flatnonzero(users == u) for u in np.unique(users)]
    means = []
    for _ in range(4000):
        drawn = np.concatenate([rows[u] for u in rng.integers(0, len(rows), len(rows))])
        means.append(values[drawn].mean())
    got = bootstrap_interval(values, users, num_samples=20_000)
    assert got.mean == pytest.approx(values.mean())
    assert [got.low, got.high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.012)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for sample in range(200):
        low, high = bootstrap_interval(rng.random(150) < 0.3, num_samples=500, seed=sample)[1:]
        covered += low <= 0.3 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_interval_of_whole_users_is_wider_than_of_queries() -> None:
    values, users = np.repeat(np.arange(40) % 2, 10), np.repeat(np.arange(40), 10)
    by_user, by_query = bootstrap_interval(values, users), bootstrap_interval(values)
    assert by_user.high - by_user.low > 2 * (by_query.high - by_query.low)


def test_randomisation_test_is_the_exact_one_for_few_users() -> None:
    a = np.array([0.1, 0.4, 0.2, 0.3, 0.9, 0.0, 0.5, 0.2])
    b = np.array([0.3, 0.5, 0.2, 0.7, 0.8, 0.3, 0.9, 0.2])
    users = np.array([0, 0, 1, 1, 2, 3, 4, 5])
    sums = np.bincount(users, b - a)
    all_signs = np.array(list(product([1, -1], repeat=6)))
    exact = (np.abs(all_signs @ sums) >= abs(sums.sum()) - 1e-12).mean()
    assert randomisation_test(a, b, users, num_samples=40_000) == pytest.approx(exact, abs=0.01)


def test_p_values_of_two_equal_methods_are_uniform() -> None:
    rng = np.random.default_rng(2)
    p = [
        randomisation_test(*rng.normal(size=(2, 100)), num_samples=400, seed=s) for s in range(200)
    ]
    assert np.mean(np.array(p) < 0.05) < 0.1
    assert 0.4 < np.mean(p) < 0.6


def test_the_same_values_do_not_differ() -> None:
    values = np.random.default_rng(3).random(50)
    got = compare(values, values)
    assert (got.difference, got.low, got.high, got.p_value) == (0, 0, 0, 1)


def test_a_clear_gain_is_found_and_signed() -> None:
    rng = np.random.default_rng(4)
    a = rng.random(400)
    got = compare(a, a + rng.normal(0.05, 0.1, 400))
    assert 0 < got.low < got.difference < got.high
    assert got.p_value < 0.001
    assert got.mean_b - got.mean_a == pytest.approx(got.difference)


def test_same_seed_same_interval() -> None:
    values = np.random.default_rng(5).random(60)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_blocks_do_not_change_how_many_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dasrec.eval.significance._BLOCK", 300)
    values = np.random.default_rng(6).random(60)
    assert randomisation_test(values, values, num_samples=7) == 1
    low, high = bootstrap_interval(values, num_samples=7)[1:]
    assert low < values.mean() < high


def test_reports_are_compared_query_by_query(
    corpus: Corpus, write_lists: Callable[..., Path], tmp_path: Path
) -> None:
    for seed, name in enumerate(("a", "b")):
        path = write_lists(f"lists_{name}", seed=seed)
        evaluate_recommendations(EvalConfig(ks=(10,)), name, path, corpus, tmp_path / name)
    got = compare_reports(tmp_path / "a", tmp_path / "b", slice_name="tie_free")
    values = []
    for name in ("a", "b"):
        table = load_report(tmp_path / name).per_query.filter(
            split="test", **{"slice.tie_free": True}
        )
        values.append(ndcg_at_k(table["rank"].fill_null(0).to_numpy(), 10))
    assert got == compare(*values)  # one query a user in this corpus
    assert got.num_users == len(values[0])
    with pytest.raises(ValueError, match="no slice 'warm'; known: tie_free"):
        compare_reports(tmp_path / "a", tmp_path / "b", slice_name="warm")
    with pytest.raises(ValueError, match="unknown metric 'auc@10'"):
        compare_reports(tmp_path / "a", tmp_path / "b", "auc@10")


def test_reports_of_different_queries_are_refused(
    corpus: Corpus, write_lists: Callable[..., Path], tmp_path: Path
) -> None:
    for skip, name in ((0, "a"), (2, "b")):
        path = write_lists(f"lists_{name}", skip=skip)
        evaluate_recommendations(EvalConfig(ks=(10,)), name, path, corpus, tmp_path / name)
    with pytest.raises(ValueError, match="hold different queries of test"):
        compare_reports(tmp_path / "a", tmp_path / "b")


def test_holm_by_hand() -> None:
    assert holm([0.5, 0.9]).tolist() == [1, 1]
    assert holm([0.04, 0.001, 0.02]).tolist() == pytest.approx([0.04, 0.003, 0.04])


def test_refuses_what_has_no_answer() -> None:
    with pytest.raises(ValueError, match="finite values"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="finite values"):
        bootstrap_interval([0.1, float("nan")])
    with pytest.raises(ValueError, match="unequal lengths"):
        compare([0.1, 0.2], [0.1])
    with pytest.raises(ValueError, match="unequal lengths"):
        bootstrap_interval([0.1, 0.2], [1])
