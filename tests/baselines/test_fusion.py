from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from dasrec.baselines import FusionConfig, fuse
from dasrec.core import Corpus, Recommendations, load_recommendations, write_recommendations
from dasrec.core.corpus import Int64s

MakeCorpus = Callable[..., Corpus]
Ints = npt.NDArray[np.int32]


def write(path: Path, corpus: Corpus, queries: Int64s, items: Ints) -> Path:
    scores = np.where(items >= 0, -np.arange(items.shape[1], dtype=np.float32), -np.inf)
    lists = Recommendations(queries, items, scores.astype(np.float32))
    write_recommendations(path, {}, {"corpus": corpus.manifest}, lists)
    return path


def random_lists(rng: np.random.Generator, rows: int, num_items: int, width: int) -> Ints:
    items = np.stack([rng.permutation(num_items)[:width] for _ in range(rows)]).astype(np.int32)
    for row, length in enumerate(rng.integers(1, width + 1, rows)):
        items[row, length:] = -1
    return items


def brute_force(lists: list[Ints], weights: tuple[float, ...], row: int) -> dict[int, float]:
    scores: dict[int, float] = {}
    for items, weight in zip(lists, weights, strict=True):
        for rank, item in enumerate(items[row].tolist(), start=1):
            if item >= 0 and weight > 0:
                scores[item] = scores.get(item, 0.0) + weight / (7.0 + rank)
    return scores


def ordered(scores: dict[int, float]) -> list[int]:
    return sorted(scores, key=lambda item: (-round(scores[item], 12), item))


@pytest.fixture
def world(make_corpus: MakeCorpus) -> tuple[Corpus, Int64s]:
    rng = np.random.default_rng(0)
    corpus = make_corpus([rng.integers(0, 15, 6).tolist() for _ in range(40)], 15)
    queries = np.sort(np.concatenate([corpus.queries("valid"), corpus.queries("test")]))
    return corpus, queries


@pytest.mark.parametrize("count", [2, 3])
def test_weights_and_lists_equal_brute_force(
    count: int, world: tuple[Corpus, Int64s], tmp_path: Path
) -> None:
    corpus, queries = world
    rng = np.random.default_rng(count)
    lists = [random_lists(rng, len(queries), 15, 8) for _ in range(count)]
    valid = np.isin(queries, corpus.queries("valid"))
    lists[0][valid, 0] = np.where(  # the first knows some of the answers
        rng.random(valid.sum()) < 0.3, corpus.item_idx[queries[valid]], lists[0][valid, 0]
    )
    for row in range(len(queries)):  # which must not stand twice in a list
        again = np.flatnonzero(lists[0][row, 1:] == lists[0][row, 0]) + 1
        rest = np.delete(lists[0][row], again)
        lists[0][row] = np.concatenate([rest, np.full(len(again), -1, np.int32)])
    names = tuple(f"m{number}" for number in range(count))
    paths = {
        name: write(tmp_path / name, corpus, queries, items)
        for name, items in zip(names, lists, strict=True)
    }
    config = FusionConfig(methods=names, steps=4, width=12, rank_constant=7.0)
    manifest = fuse(config, corpus, paths, tmp_path / "out")

    def ndcg(weights: tuple[float, ...]) -> float:
        gains = []
        for row in np.flatnonzero(valid).tolist():
            target, best = int(corpus.item_idx[queries[row]]), brute_force(lists, weights, row)
            place = ordered(best).index(target) if target in best else 10
            gains.append(1 / np.log2(place + 2) if place < 10 else 0.0)
        return float(np.mean(gains))

    tried = manifest.metrics["valid_ndcg@10"]
    assert len(tried) == {2: 5, 3: 15}[count]
    for label, value in tried.items():
        assert value == pytest.approx(ndcg(tuple(map(float, label.split()))))
    weights = tuple(manifest.metrics["weights"].values())
    assert ndcg(weights) == pytest.approx(max(tried.values()))
    fused = load_recommendations(tmp_path / "out", corpus)
    assert fused.queries.tolist() == queries.tolist()
    for row, items in enumerate(fused.item_idx):
        expected = ordered(brute_force(lists, weights, row))[:12]
        assert items[items >= 0].tolist() == expected


def test_given_weights_and_common_queries(world: tuple[Corpus, Int64s], tmp_path: Path) -> None:
    corpus, queries = world
    rng = np.random.default_rng(5)
    items = random_lists(rng, len(queries), 15, 4)
    test = np.isin(queries, corpus.queries("test"))
    paths = {
        "a": write(tmp_path / "a", corpus, queries, items),
        "b": write(tmp_path / "b", corpus, queries[test], items[test]),
    }
    fuse(FusionConfig(methods=("a", "b"), weights=(0.0, 2.0)), corpus, paths, tmp_path / "out")
    fused = load_recommendations(tmp_path / "out", corpus)
    assert fused.queries.tolist() == queries[test].tolist()
    assert (fused.item_idx[:, :4] == items[test]).all()
    with pytest.raises(ValueError, match=r"fusion\.weights: the lists of a, b have no validation"):
        fuse(FusionConfig(methods=("a", "b")), corpus, paths, tmp_path / "none")
    valid = write(tmp_path / "c", corpus, queries[~test], items[~test])
    with pytest.raises(ValueError, match="no query was answered by all of b, c"):
        fuse(FusionConfig(methods=("b", "c")), corpus, paths | {"c": valid}, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_faults_of_the_config_are_named() -> None:
    with pytest.raises(ValueError, match="one is named twice"):
        FusionConfig(methods=("a", "a"))
    with pytest.raises(ValueError, match="expected 2 of at least 0"):
        FusionConfig(methods=("a", "b"), weights=(1.0,))
