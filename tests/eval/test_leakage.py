"""Planted leaks are caught, and a clean run is found clean."""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from dasrec.baselines import (
    CooccurrenceConfig,
    ItemKnnConfig,
    PopularityConfig,
    recommend_cooccurrence,
    recommend_item_knn,
    recommend_popularity,
)
from dasrec.cli.leak import check_leak
from dasrec.cli.main import main
from dasrec.core import Corpus, PrepareConfig, build_config, load_corpus, prepare, write_artifact
from dasrec.core.corpus import Int64s, Ragged, save_corpus_payload
from dasrec.core.embed import EmbedConfig, embed
from dasrec.eval.leakage import (
    Finding,
    blind,
    blind_targets,
    blind_training,
    check_order,
    check_statistics,
    check_time,
    check_vectors,
)

NUM_ITEMS = 30
TEXTS = {"items": {"encoder": "lsa"}, "users": {"encoder": "lsa"}, "lsa": {"dim": 6, "min_df": 1}}
CLICKS = {
    "items": {"encoder": "cooccurrence"},
    "users": {"encoder": "history_mean"},
    "cooccurrence": {"dim": 6},
}


def write_corpus(path: Path, split: str = "leave_one_out") -> Corpus:
    """25 users with 6 events, the last two of which (or a random end) are held out."""
    rng = np.random.default_rng(0)
    held_out = np.full(25, 2) if split == "leave_one_out" else rng.integers(0, 5, 25)
    place = np.tile(np.arange(6), 25)
    left = 6 - place
    users = np.repeat(np.arange(25, dtype=np.int32), 6)
    parts = np.where(left <= held_out[users], np.where(left == 1, 2, 1), 0)
    words = [" ".join(rng.choice(list("abcdefghijklmnop"), 3)) for _ in range(NUM_ITEMS)]
    titles = [f"{text.replace(' ', 'x ')} word{i}" for i, text in enumerate(words)]

    def payload(scratch: Path) -> None:
        save_corpus_payload(
            scratch,
            user_idx=users,
            item_idx=rng.integers(0, NUM_ITEMS, 150).astype(np.int32),
            timestamp=place * 86_400,
            split=parts.astype(np.int8),
            users=pl.DataFrame({"user_id": [f"u{u}" for u in range(25)]}),
            items=pl.DataFrame({"item_id": [f"i{i}" for i in range(NUM_ITEMS)], "title": titles}),
            impressions=None,
        )

    write_artifact(path, "corpus", {}, {}, payload)
    return load_corpus(path)


def leaky(corpus: Corpus, part: int) -> Corpus:
    """A corpus whose events of valid (1) or test (2) are for training too."""

    class Leaky(Corpus):
        @cached_property
        def train_rows(self) -> Int64s:
            return np.flatnonzero((self.split == 0) | (self.split == part))

    values = {field.name: getattr(corpus, field.name) for field in dataclasses.fields(corpus)}
    return Leaky(**values)


def write_run(run: Path, leak: str = "", part: int = 2, texts: bool = True) -> None:
    """A run in which one artifact was made from a leaky corpus."""
    corpus = write_corpus(run / "corpus")

    def seen(what: str) -> Corpus:
        return leaky(corpus, part) if what == leak else corpus

    config = build_config(EmbedConfig, TEXTS if texts else CLICKS, "test")
    embed(config, seen("embeddings"), run / "embeddings")
    methods: dict[str, tuple[Any, Callable[..., object]]] = {
        "popularity": (PopularityConfig(width=5), recommend_popularity),
        "item_knn": (ItemKnnConfig(width=5), recommend_item_knn),
        "cooccurrence": (CooccurrenceConfig(width=5), recommend_cooccurrence),
    }
    for name, (section, recommend) in methods.items():
        recommend(section, seen(name), run / "recommendations" / name)


def found_in(findings: list[Finding]) -> set[str]:
    return {finding.what for finding in findings if finding.clean is False}


@pytest.mark.parametrize("texts", [True, False])
def test_a_clean_run_is_clean(tmp_path: Path, texts: bool) -> None:
    write_run(tmp_path, texts=texts)
    findings = check_leak(tmp_path)
    # everyone's days are the same here, so leave-one-out trains on nothing of a later day
    assert all(finding.clean for finding in findings)
    expected = {"split", "popularity", "co-occurrence", "user texts", "embeddings: users"}
    expected |= {"recommendations/item_knn: learned", "recommendations/popularity: own target"}
    assert expected <= {finding.what for finding in findings}


@pytest.mark.parametrize("part", [1, 2])
@pytest.mark.parametrize("method", ["popularity", "item_knn", "cooccurrence"])
def test_held_out_events_in_counts_are_caught(tmp_path: Path, method: str, part: int) -> None:
    write_run(tmp_path, method, part)
    found = found_in(check_leak(tmp_path))
    assert f"recommendations/{method}: learned" in found
    assert all(what.startswith(f"recommendations/{method}") for what in found)


@pytest.mark.parametrize("part", [1, 2])
@pytest.mark.parametrize("texts", [True, False])
def test_held_out_events_in_vectors_are_caught(tmp_path: Path, texts: bool, part: int) -> None:
    write_run(tmp_path, "embeddings", part, texts)
    found = found_in(check_leak(tmp_path))
    # titles are in the text of users, not of items; clicks are in both sides' vectors
    expected = {"embeddings: users"} | (set() if texts else {"embeddings: items, text"})
    assert found == expected


@pytest.mark.parametrize("part", [1, 2])
def test_a_leak_in_the_code_is_caught(
    tmp_path: Path, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path)
    rows = property(lambda self: np.flatnonzero((self.split == 0) | (self.split == part)))
    monkeypatch.setattr(Corpus, "train_rows", rows)
    found = found_in(check_leak(tmp_path))
    assert {"popularity", "co-occurrence", "training sequences", "user texts"} <= found
    assert {"embeddings: users", "recommendations/item_knn: learned"} <= found


def test_lists_that_know_their_target_are_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus(tmp_path / "corpus")

    def one_too_many(self: Corpus, queries: Int64s, max_length: int) -> Ragged:
        return self._slices(self.user_start[self.user_idx[queries]], queries + 1)

    monkeypatch.setattr(Corpus, "histories", one_too_many)
    recommend_item_knn(ItemKnnConfig(width=5), corpus, tmp_path / "recommendations" / "item_knn")
    assert "recommendations/item_knn: own target" in found_in(check_leak(tmp_path))


@pytest.mark.parametrize("split", ["leave_one_out", "by_time"])
def test_blinding_changes_what_it_says_and_nothing_else(tmp_path: Path, split: str) -> None:
    corpus = write_corpus(tmp_path / "corpus", split)
    held_out = np.asarray(corpus.split > 0)
    for blinding, rows in (
        (blind_training(corpus), held_out),
        (blind_targets(corpus), held_out & (np.arange(150) % 6 == 5)),
    ):
        assert ((blinding.corpus.item_idx != corpus.item_idx) == rows).all()
        assert blinding.corpus.item_idx.max() < NUM_ITEMS
        asked, true = (c.histories(blinding.queries, 99) for c in (blinding.corpus, corpus))
        assert asked.values.tolist() == true.values.tolist()  # what lists may know stays
    assert len(blind_targets(corpus).queries) == held_out.sum()


def test_a_training_event_behind_a_held_out_one(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    assert check_order(corpus).clean
    turned = dataclasses.replace(corpus, split=np.asarray(corpus.split)[::-1].copy())
    finding = check_order(turned)
    assert finding.clean is False
    assert finding.detail.startswith("50 events lie in an earlier part")


@pytest.mark.parametrize("method", ["leave_one_out", "global_time", "sliding_window"])
def test_training_events_of_after_the_first_held_out_one(tmp_path: Path, method: str) -> None:
    rng = np.random.default_rng(8)
    log = pl.DataFrame(
        {
            "user_id": [f"u{u}" for u in rng.integers(0, 20, 200)],
            "item_id": [f"i{i}" for i in rng.integers(0, 30, 200)],
            "timestamp": rng.integers(0, 60, 200) * 86_400,
            "pos": rng.integers(0, 100, 200),  # contradicts the time
        }
    )
    log.write_parquet(tmp_path / "interactions.parquet")
    cuts = {"valid_from": 0.8, "test_from": 0.9} if method != "leave_one_out" else {}
    for order in ({}, {"columns": {"order": "pos"}, "path": "interactions.parquet"}):
        values = {"split": {"method": method, **cuts}} | ({"interactions": order} if order else {})
        config = build_config(PrepareConfig, values, "test")
        corpus = prepare(config, tmp_path, tmp_path / "corpus", replace=True)
        finding = check_time(corpus)
        if method == "leave_one_out":
            assert finding.clean is None
            assert "% of the training events are later" in finding.detail
        else:
            assert finding == Finding(
                "time", True, "0.0% of the training events are later than the first held-out one"
            )
            turned = dataclasses.replace(corpus, split=np.roll(corpus.split, 7))
            assert check_time(turned).clean is False


def test_statistics_of_a_corpus_without_held_out_events(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    bare = dataclasses.replace(corpus, split=np.zeros(150, np.int8))
    assert all(finding.clean for finding in check_statistics(bare))
    assert check_time(bare).clean is None


def test_vectors_may_differ_by_rounding_only() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert check_vectors("x", vectors, vectors * (1 + 1e-6)).clean
    moved = vectors.copy()
    moved[2, 1] += 0.01
    assert check_vectors("x", vectors, moved) == Finding(
        "x", False, "1 of 5 rows differ from what training gives"
    )
    assert check_vectors("x", vectors, vectors[:, :2]).clean is False


def test_what_cannot_be_checked_says_why(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "recommendations" / "item_knn").rename(tmp_path / "recommendations" / "das")
    findings = {finding.what: finding for finding in check_leak(tmp_path)}
    assert findings["recommendations/das"].clean is None
    one = load_corpus(tmp_path / "corpus")
    one.__dict__["num_items"] = 1
    with pytest.raises(ValueError, match="one item cannot be blinded"):
        blind(one, np.ones(150, np.bool_))


def test_command_fails_on_a_leak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "clean")
    write_run(tmp_path / "leak", "popularity")
    codes = []
    for name in ("clean", "leak"):
        with pytest.raises(SystemExit) as done:
            main(["check-leak", str(tmp_path / name)])
        codes.append(done.value.code)
    assert codes == [0, 1]
    captured = capsys.readouterr()
    assert "LEAK" in captured.out
    assert "held-out events were learned from" in captured.err
