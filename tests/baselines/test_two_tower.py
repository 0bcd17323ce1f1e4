from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from dasrec.baselines import TwoTowerConfig, recommend_two_tower, two_tower
from dasrec.core import Corpus, load_recommendations

MakeCorpus = Callable[..., Corpus]
Floats = npt.NDArray[np.float32]

CONFIGS = [
    TwoTowerConfig(tokenizer="das", width=6),
    TwoTowerConfig(tokenizer="das", width=6, exclude_seen="always"),
    TwoTowerConfig(tokenizer="das", width=20, query="history", max_history=3),
]


def unit(rng: np.random.Generator, rows: int) -> Floats:
    vectors = rng.normal(size=(rows, 5))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


@pytest.mark.parametrize("config", CONFIGS, ids=["user", "unseen", "history"])
def test_equals_brute_force(
    config: TwoTowerConfig,
    make_corpus: MakeCorpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(two_tower, "BLOCK", 7)
    rng = np.random.default_rng(2)
    # two events: a test query of a user without training events
    sequences = [rng.integers(0, 14, n).tolist() for n in [2, 2, *rng.integers(3, 12, 20)]]
    corpus = make_corpus(sequences, 16)
    users, items = unit(rng, len(sequences)), unit(rng, 16)
    recommend_two_tower(config, corpus, users, items, corpus.manifest, tmp_path / "out")
    lists = load_recommendations(tmp_path / "out", corpus)
    trained = {item for sequence in sequences for item in sequence[:-2]}
    assert len(trained) < 16
    for query, found, scores in zip(lists.queries, lists.item_idx, lists.score, strict=True):
        user = int(corpus.user_idx[query])
        history = sequences[user][: query - int(corpus.user_start[user])]
        vector = users[user]
        if config.query == "history" or len(sequences[user]) == 2:
            vector = items[history[-config.max_history :]].sum(axis=0)
            vector = vector / np.linalg.norm(vector)
        allowed = trained - set(history) if config.exclude_seen == "always" else trained
        expected = {item: float(items[item] @ vector) for item in allowed}
        best = sorted(allowed, key=lambda item: -expected[item])[: config.width]
        real = found[found >= 0]
        assert real.tolist() == best
        np.testing.assert_allclose(scores[found >= 0], [expected[i] for i in best], atol=1e-6)
