"""Re-ranking: order, history, blending with the generator, and refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dasrec.core import Recommendations, load_recommendations, write_recommendations
from dasrec.core.config import build_config
from dasrec.ranking import RankingConfig, RerankConfig, load_ranker, rerank, train_ranker

WIDTH = 12


@pytest.fixture(scope="module")
def parts(implicit: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A ranker, and candidates in which the generator puts the target first or nowhere."""
    folder = tmp_path_factory.mktemp("rerank")
    corpus = implicit.corpus
    values = {
        "epochs": 2,
        "model": {"embedding_dim": 4, "hidden_dims": [16]},
        "features": {"hash_size": 256, "max_history": 10},
    }
    config = build_config(RankingConfig, values, "test")
    train_ranker(config, corpus, implicit.sids, folder / "ranker")
    queries = np.concatenate([corpus.queries("valid"), corpus.queries("test")])
    queries.sort()
    rng = np.random.default_rng(0)
    items = np.argsort(rng.random((len(queries), corpus.num_items)), axis=1)[:, :WIDTH]
    target = corpus.item_idx[queries]
    absent = ~(items == target[:, None]).any(1)
    items[absent, 0] = target[absent]
    scores = np.tile(-np.arange(WIDTH, dtype=np.float32) / np.float32(10), (len(queries), 1))
    items[::5, WIDTH - 3 :] = -1
    scores[::5, WIDTH - 3 :] = -np.inf
    candidates = Recommendations(queries, items.astype(np.int32), scores)
    write_recommendations(folder / "candidates", {}, {"corpus": corpus.manifest}, candidates)
    return folder / "ranker", folder / "candidates"


def run(parts: tuple[Path, Path], world: Any, out: Path, **values: Any) -> Recommendations:
    rerank(RerankConfig(**values), *parts, world.corpus, world.sids, out)
    return load_recommendations(out, world.corpus)


def test_without_generator_the_order_is_that_of_the_logits(
    parts: tuple[Path, Path], implicit: Any, tmp_path: Path
) -> None:
    got = run(parts, implicit, tmp_path / "out", generator_weight=0.0)
    before = load_recommendations(parts[1], implicit.corpus)
    ranker = load_ranker(parts[0], implicit.corpus, implicit.sids)
    corpus = implicit.corpus
    assert (got.queries == before.queries).all()
    for row in range(0, len(got.queries), 17):
        query = got.queries[row]
        items = before.item_idx[row][before.item_idx[row] >= 0]
        logits = [
            ranker.score(corpus.user_idx[[query]], np.array([item]), np.array([query]))[0]
            for item in items
        ]
        expected = items[np.argsort(-np.array(logits), kind="stable")]
        assert got.item_idx[row][: len(items)].tolist() == expected.tolist()
        np.testing.assert_allclose(got.score[row][: len(items)], sorted(logits)[::-1], atol=1e-5)
        assert (got.item_idx[row][len(items) :] == -1).all()


def test_large_weight_gives_back_the_generators_order_and_k_cuts(
    parts: tuple[Path, Path], implicit: Any, tmp_path: Path
) -> None:
    got = run(parts, implicit, tmp_path / "out", generator_weight=1e4, k=5)
    before = load_recommendations(parts[1], implicit.corpus)
    assert (got.item_idx == before.item_idx[:, :5]).all()


def test_weight_is_chosen_on_validation_queries(
    parts: tuple[Path, Path], implicit: Any, tmp_path: Path
) -> None:
    got = run(parts, implicit, tmp_path / "out")
    assert got.manifest is not None
    measured = dict(got.manifest.metrics["valid_ndcg@10"])
    generator = measured.pop("generator")
    weight = got.manifest.metrics["generator_weight"]
    assert measured[str(weight)] == max(measured.values())
    assert measured["100.0"] == pytest.approx(generator, abs=0.02)
    assert max(measured.values()) >= generator
    assert set(got.manifest.inputs) == {"corpus", "ranking_model", "candidates", "semantic_ids"}


def test_refuses_to_choose_on_test_queries(
    parts: tuple[Path, Path], implicit: Any, tmp_path: Path
) -> None:
    corpus, queries = implicit.corpus, implicit.corpus.queries("test")
    items = np.tile(np.arange(3, dtype=np.int32), (len(queries), 1))
    scores = np.zeros(items.shape, np.float32)
    only_test = Recommendations(queries, items, scores)
    write_recommendations(tmp_path / "test", {}, {"corpus": corpus.manifest}, only_test)
    with pytest.raises(ValueError, match="no validation queries"):
        run((parts[0], tmp_path / "test"), implicit, tmp_path / "out")
    assert not (tmp_path / "out").exists()
