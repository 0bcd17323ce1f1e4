from pathlib import Path

import numpy as np
import pytest
from tests.walks import write_walks

from dasrec.core import catalogue_lists
from dasrec.core.catalogue_lists import Floats, recommend_blocks, top_items
from dasrec.core.corpus import Int64s


@pytest.mark.parametrize("width", [1, 3, 7, 10])
@pytest.mark.parametrize("levels", [2, 5, 1000])  # few levels: many ties
def test_top_items_is_a_stable_sort(width: int, levels: int) -> None:
    rng = np.random.default_rng(levels)
    scores = rng.integers(-levels, levels, (40, 7)).astype(np.float32)
    items, best = top_items(scores.copy(), width)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :width]
    assert (items[:, : min(width, 7)] == expected).all()
    assert (best[:, :7] == np.take_along_axis(scores, expected, axis=1)).all()
    assert (items[:, 7:] == -1).all()
    assert np.isneginf(best[:, 7:]).all()


def test_barred_items_never_appear() -> None:
    scores = np.array([[3, -np.inf, 1, -np.inf], [-np.inf] * 4], np.float32)
    items, best = top_items(scores, 3)
    assert items.tolist() == [[0, 2, -1], [-1, -1, -1]]
    assert best.tolist() == [[3, 1, -np.inf], [-np.inf] * 3]


def test_queries_are_valid_and_test_rows_whatever_the_block_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    # users 0 and 1 are too short for a validation query (or any query)
    sequences = [rng.integers(0, 9, n).tolist() for n in (1, 2, 3, 4, 5, 9)]
    corpus = write_walks(tmp_path / "corpus", sequences, 9)
    ends = np.cumsum([1, 2, 3, 4, 5, 9])
    rows = sorted([*(ends[1:] - 1), *(ends[2:] - 2)])

    def score(queries: Int64s) -> Floats:
        return np.stack([np.roll(np.arange(9, dtype=np.float32), q) for q in queries])

    one = recommend_blocks(corpus, 4, "always", score)
    monkeypatch.setattr(catalogue_lists, "MAX_SCORES", 2 * 9)
    many = recommend_blocks(corpus, 4, "always", score)
    assert one.queries.tolist() == rows
    assert (one.item_idx == many.item_idx).all()
    assert (one.score == many.score).all()
    for query, items in zip(one.queries, one.item_idx, strict=True):
        user = int(np.searchsorted(ends, query, side="right"))
        seen = sequences[user][: query - (ends[user] - len(sequences[user]))]
        expected = [i for i in np.argsort(-np.roll(np.arange(9), query)) if i not in seen][:4]
        assert items[: len(expected)].tolist() == expected


@pytest.mark.parametrize(("repeat", "excluded"), [(False, True), (True, False)])
def test_as_in_training_looks_at_training_events_only(
    repeat: bool, excluded: bool, tmp_path: Path
) -> None:
    # the validation and test events repeat in any case
    train = [0, 1, 2, 0] if repeat else [0, 1, 2, 3]
    corpus = write_walks(tmp_path / "corpus", [[*train, 1, 1], [1, 2, 3, 0, 0]], 5)

    def score(queries: Int64s) -> Floats:
        return np.tile(np.arange(5, dtype=np.float32), (len(queries), 1))

    lists = recommend_blocks(corpus, 5, "as_in_training", score)
    assert bool((lists.item_idx < 0).any()) == excluded
