"""The exported scorer encodes every kind of context as the ranker does."""

import itertools
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.ranking.rich_world import field, write
from tests.ranking.test_export_ranker import scorer_of

from dasrec.core import Corpus
from dasrec.core.config import build_config
from dasrec.ranking import Ranker, RankingConfig, load_ranker, train_ranker
from dasrec.ranking.export.export import export_ranker

FIELDS = [
    field("categorical", "context", "device"),
    field("categorical", "context", "hashed", column="device", hash_size=7),
    field("categorical", "context", "whole", column="bid"),
    field("numeric", "context", "bid"),
    field("numeric", "context", "standard", column="bid", encoding="standardise"),
]
CASES = list(
    itertools.product((None, "d0", "d2", "new"), (None, 0.0, 3.0, 16.0, 1e9), (None, 18_000))
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ranker, Corpus, Any]:
    folder = tmp_path_factory.mktemp("context")
    corpus = write(folder / "corpus")
    values = {
        "epochs": 1,
        "model": {"embedding_dim": 4, "hidden_dims": [8]},
        "features": {"fields": FIELDS, "time_of_day": True, "max_history": 5},
    }
    train_ranker(build_config(RankingConfig, values, "test"), corpus, None, folder / "ranker")
    ranker = load_ranker(folder / "ranker", corpus, None)
    export_ranker(ranker, corpus, folder / "out", onnx=False, users=True)
    return ranker, corpus, scorer_of(folder / "out")


def test_scorer_agrees_with_the_ranker(exported: tuple[Ranker, Corpus, Any]) -> None:
    ranker, corpus, scorer = exported
    user, end = 3, corpus.user_start[4]
    history = [f"i{i}" for i in corpus.item_idx[corpus.user_start[3] : end]]
    types = {"device": pl.String, "bid": pl.Float64, "timestamp": pl.Int64}
    table = pl.DataFrame(CASES, schema=types, orient="row")
    size = len(table)
    rows = (np.full(size, user), np.full(size, 7), np.full(size, end))
    expected = ranker.probability(ranker.score(*rows, context=table))
    assert len(np.unique(expected.round(7))) > size / 2  # the context is seen
    got = [scorer.score(["i7"], history, "u3", context=row)[0] for row in table.to_dicts()]
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_scorer_refuses_nan(exported: tuple[Ranker, Corpus, Any]) -> None:
    with pytest.raises(ValueError, match=r"context 'bid': not a finite number, got nan; give null"):
        exported[2].score(["i7"], [], "u3", context={"bid": float("nan")})
