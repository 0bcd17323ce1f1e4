import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from dasrec.baselines import IalsConfig, recommend_ials
from dasrec.baselines.ials import _fitted
from dasrec.core import Corpus, load_recommendations

MakeCorpus = Callable[..., Corpus]
Matrix = npt.NDArray[np.float64]


def loss(config: IalsConfig, log: Matrix, users: Matrix, items: Matrix) -> float:
    """The objective in the module's docstring, every pair written out."""
    confidence = np.where(log > 0, config.alpha, 1.0)
    fit = float((confidence * (log - users @ items.T) ** 2).sum())
    return fit + config.regularization * float((users**2).sum() + (items**2).sum())


def solve(config: IalsConfig, row: Matrix, others: Matrix) -> Matrix:
    """Best vector of one user (item) given those of all items (users)."""
    confidence = np.where(row > 0, config.alpha, 1.0)
    gram = (others.T * confidence) @ others + config.regularization * np.eye(others.shape[1])
    return np.asarray(np.linalg.solve(gram, others.T @ (confidence * row)), np.float64)


def test_the_fit_is_a_minimum_of_the_objective(make_corpus: MakeCorpus) -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 10, 9).tolist() for _ in range(25)]
    corpus = make_corpus(sequences, 10)
    log = np.zeros((25, 10))
    for user, sequence in enumerate(sequences):
        log[user, sequence[:-2]] = 1
    config = IalsConfig(factors=3, alpha=4.0, regularization=0.5, iterations=60)
    model = _fitted(config, corpus, seed=1)
    users = np.asarray(model.user_factors, np.float64)
    items = np.asarray(model.item_factors, np.float64)
    best = np.stack([solve(config, log[:, item], users) for item in range(10)])
    np.testing.assert_allclose(items, best, atol=2e-3)
    reached = loss(config, log, users, items)
    for item in range(10):  # no item can be moved to lower it
        moved = items.copy()
        moved[item] += 0.05 * rng.normal(size=3)
        assert loss(config, log, users, moved) > reached - 1e-4


def test_a_query_is_solved_from_its_history(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    sequences = [rng.integers(0, 12, rng.integers(3, 12)).tolist() for _ in range(20)]
    corpus = make_corpus(sequences, 12)
    config = IalsConfig(width=5, factors=4, alpha=3.0, iterations=5)
    recommend_ials(config, corpus, tmp_path / "out", seed=2)
    items = np.asarray(_fitted(config, corpus, seed=2).item_factors, np.float64)
    lists = load_recommendations(tmp_path / "out", corpus)
    for query, found, scores in zip(lists.queries, lists.item_idx, lists.score, strict=True):
        user = int(corpus.user_idx[query])
        history = sequences[user][: query - int(corpus.user_start[user])]
        row = np.isin(np.arange(12), history).astype(np.float64)
        expected = items @ solve(config, row, items)
        np.testing.assert_allclose(scores, expected[found], atol=1e-4)
        np.testing.assert_allclose(scores, np.sort(expected)[::-1][:5], atol=1e-4)


def test_the_seed_decides(checkerboard: Corpus, tmp_path: Path) -> None:
    config = IalsConfig(factors=4)
    one = recommend_ials(config, checkerboard, tmp_path / "one", seed=3)
    two = recommend_ials(config, checkerboard, tmp_path / "two", seed=3)
    other = recommend_ials(config, checkerboard, tmp_path / "other", seed=4)
    assert one.fingerprint == two.fingerprint
    assert one.files != other.files


def test_without_the_package_says_what_to_install(
    checkerboard: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    with pytest.raises(ValueError, match=r"pip install 'dasrec\[ials\]'"):
        recommend_ials(IalsConfig(), checkerboard, tmp_path / "out")
