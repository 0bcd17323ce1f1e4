"""Held-out items reach no method: other test items give the same bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from dasrec.baselines import (
    CooccurrenceConfig,
    EaseConfig,
    FusionConfig,
    IalsConfig,
    ItemKnnConfig,
    PopularityConfig,
    RecentPopularityConfig,
    TwoTowerConfig,
    fuse,
    recommend_cooccurrence,
    recommend_ease,
    recommend_ials,
    recommend_item_knn,
    recommend_popularity,
    recommend_recent_popularity,
    recommend_two_tower,
)
from dasrec.core import Corpus, load_recommendations

MakeCorpus = Callable[..., Corpus]


def two_tower(corpus: Corpus, out: Path) -> None:
    rng = np.random.default_rng(0)
    users, items = (rng.normal(size=(n, 4)).astype(np.float32) for n in (25, 12))
    config = TwoTowerConfig(tokenizer="das", query="history")
    recommend_two_tower(config, corpus, users, items, corpus.manifest, out)


def fusion(corpus: Corpus, out: Path) -> None:
    paths = {name: out.with_name(f"{out.name}.{name}") for name in ("ease", "popularity")}
    recommend_ease(EaseConfig(), corpus, paths["ease"])
    recommend_popularity(PopularityConfig(), corpus, paths["popularity"])
    fuse(FusionConfig(methods=tuple(paths)), corpus, paths, out)


METHODS: dict[str, Callable[[Corpus, Path], Any]] = {
    "popularity": lambda corpus, out: recommend_popularity(PopularityConfig(), corpus, out),
    "popularity_recent": lambda corpus, out: recommend_recent_popularity(
        RecentPopularityConfig(), corpus, out
    ),
    "cooccurrence": lambda corpus, out: recommend_cooccurrence(CooccurrenceConfig(), corpus, out),
    "item_knn": lambda corpus, out: recommend_item_knn(ItemKnnConfig(), corpus, out),
    "ease": lambda corpus, out: recommend_ease(EaseConfig(regularization=2.0), corpus, out),
    "ials": lambda corpus, out: recommend_ials(IalsConfig(factors=4), corpus, out),
    "two_tower": two_tower,
    "fusion": fusion,
}


@pytest.mark.parametrize("method", METHODS)
def test_other_held_out_items_give_the_same_bytes(
    method: str, make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    known = [rng.integers(0, 12, 7).tolist() for _ in range(25)]
    one = make_corpus([[*k, 0] for k in known], 12, "one")
    two = make_corpus([[*k, 11] for k in known], 12, "two")
    for name, corpus in (("a", one), ("b", two)):
        METHODS[method](corpus, tmp_path / name)
    name = "recommendations.parquet"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"fusion"}))
def test_other_validation_items_leave_the_validation_lists_alone(
    method: str, make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    rng = np.random.default_rng(4)
    train = [rng.integers(0, 12, 6).tolist() for _ in range(25)]
    tables = []
    for name, item in (("a", 0), ("b", 11)):
        corpus = make_corpus([[*t, item, 5] for t in train], 12, name)
        METHODS[method](corpus, tmp_path / name)
        lists = load_recommendations(tmp_path / name, corpus)
        valid = np.isin(lists.queries, corpus.queries("valid"))
        tables.append(pl.DataFrame({"i": lists.item_idx[valid], "s": lists.score[valid]}))
    assert tables[0].equals(tables[1])
