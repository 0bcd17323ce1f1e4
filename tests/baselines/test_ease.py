from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from dasrec.baselines import EaseConfig, ease, recommend_ease
from dasrec.baselines.ease import ease_weights
from dasrec.core import Corpus, load_recommendations

MakeCorpus = Callable[..., Corpus]


@pytest.mark.parametrize("block", [3, 1024])
def test_weights_solve_the_constrained_regression(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Column by column: ridge regression of an item on all others, solved by least squares."""
    monkeypatch.setattr(ease, "BLOCK", block)
    rng = np.random.default_rng(0)
    log = (rng.random((40, 10)) < 0.3).astype(np.float64)
    found = ease_weights(sparse.csr_matrix(log.astype(np.float32)), 3.0)
    for item in range(10):
        others = np.delete(np.arange(10), item)
        rows = np.concatenate([log[:, others], np.sqrt(3.0) * np.eye(9)])
        target = np.concatenate([log[:, item], np.zeros(9)])
        solved = np.linalg.lstsq(rows, target, rcond=None)[0]
        np.testing.assert_allclose(found[others, item], solved, atol=1e-5)
        assert found[item, item] == 0


def test_lists_are_those_of_the_closed_form(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    sequences = [rng.integers(0, 12, rng.integers(3, 14)).tolist() for _ in range(30)]
    corpus = make_corpus(sequences, 15)  # items 12 to 14 were never seen
    recommend_ease(EaseConfig(width=6, regularization=5.0), corpus, tmp_path / "out")
    lists = load_recommendations(tmp_path / "out", corpus)
    log = np.zeros((30, 15))
    for user, sequence in enumerate(sequences):
        log[user, sequence[:-2]] = 1  # a repeated item counts once
    inverse = np.linalg.inv(log.T @ log + 5.0 * np.eye(15))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    for query, items, scores in zip(lists.queries, lists.item_idx, lists.score, strict=True):
        user = int(corpus.user_idx[query])
        history = sequences[user][: query - int(corpus.user_start[user])]
        expected = np.isin(np.arange(15), history) @ weights
        np.testing.assert_allclose(scores, expected[items], atol=1e-5)
        np.testing.assert_allclose(scores, np.sort(expected)[::-1][:6], atol=1e-5)


def test_too_many_items_are_refused(
    checkerboard: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ease, "MAX_ITEMS", 19)
    with pytest.raises(ValueError, match="serves up to 19 items, got 20"):
        recommend_ease(EaseConfig(), checkerboard, tmp_path / "out")
    assert not (tmp_path / "out").exists()
