"""The protocol that is read off a run directory, and what may be compared."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from dasrec.core import Corpus, Manifest, Recommendations, write_artifact, write_recommendations
from dasrec.core.corpus import load_corpus, save_corpus_payload
from dasrec.core.embed import EmbedConfig
from dasrec.core.prepare import PrepareConfig
from dasrec.eval.protocol import Protocol, check_same, load_protocol, read_protocol
from dasrec.eval.report import EvalConfig, evaluate_recommendations
from dasrec.eval.significance import compare_reports

WriteLists = Callable[..., Path]


BASE = {"prompt": {"max_history": 99}}


def write_run(
    run: Path, prompt: dict[str, Any], base_config: dict[str, Any] = BASE, seed: int = 3
) -> tuple[Corpus, Manifest]:
    """A run directory with the manifests of a generator's whole line, and its lists."""

    def payload(scratch: Path) -> None:
        save_corpus_payload(
            scratch,
            user_idx=np.zeros(4, np.int32),
            item_idx=np.array([0, 1, 2, 0], np.int32),
            timestamp=np.arange(4),
            split=np.array([0, 0, 1, 2], np.int8),
            users=pl.DataFrame({"user_id": ["a"], "age": [3]}),
            items=pl.DataFrame({"item_id": ["x", "y", "z"], "title": ["X", "Y", "Z"]}),
            impressions=None,
        )

    def artifact(path: str, kind: str, config: dict[str, Any], **inputs: Manifest) -> Manifest:
        return write_artifact(
            run / path, kind, config, inputs, lambda _: None, seed=seed, replace=True
        )

    raw = Manifest(kind="raw", config={}, inputs={}, files={"log.csv": "0"})
    prepared = PrepareConfig(min_user_interactions=5).as_json()
    made = write_artifact(run / "corpus", "corpus", prepared, {"raw": raw}, payload, seed=seed)
    vectors = artifact("embeddings", "embeddings", EmbedConfig().as_json(), corpus=made)
    model = artifact("tokenizers/das", "tokenizer", {"max_history": 7}, embeddings=vectors)
    sids = artifact("sids/das", "semantic_ids", {}, corpus=made, tokenizer=model)
    base = artifact("bases/das", "base_model", base_config, semantic_ids=sids)
    model = artifact("generators/das", "generator", {"prompt": prompt}, base_model=base)
    corpus = load_corpus(run / "corpus")
    lists = Recommendations(
        corpus.queries("test"), np.array([[1, 0]], np.int32), np.array([[1, 0]], np.float32)
    )
    config: dict[str, object] = {"num_beams": 20, "exclude_seen": "as_in_training"}
    found = write_recommendations(
        run / "recommendations" / "das", config, {"corpus": made, "generator": model}, lists
    )
    return corpus, found


def test_protocol_is_read_off_the_manifests(tmp_path: Path) -> None:
    corpus, lists = write_run(tmp_path, {"max_history": 15})
    got = read_protocol(corpus, lists)
    assert got.data == corpus.manifest.inputs["raw"]
    assert got.filters == {
        "duplicates": "drop", "unknown_ids": "error", "repeated_ids": "error",
        "min_user_interactions": 5, "min_item_interactions": 0, "catalogue": "all",
    }  # fmt: skip
    assert (got.order, got.split, got.num_items) == ("timestamp", {"method": "leave_one_out"}, 3)
    # the generator's history, not that of the base model it started from
    assert (got.history, got.beams, got.exclude_seen) == (15, 20, True)
    assert got.text_fields == {"items": ["title"], "users": ["age"]}
    assert got.encoder == {side: {"encoder": "lsa", "dim": 128} for side in ("items", "users")}
    assert got.seeds["generator"] == got.seeds["embeddings"] == 3
    assert set(got.code) == set(got.seeds)
    assert got.not_found == {}


def test_the_history_is_that_of_the_model_and_not_of_its_tokenizer(tmp_path: Path) -> None:
    assert read_protocol(*write_run(tmp_path / "a", {})).history == 99
    assert read_protocol(*write_run(tmp_path / "b", {}, {})).history is None


def test_what_is_not_in_the_run_is_named(tmp_path: Path) -> None:
    corpus, lists = write_run(tmp_path, {})
    (tmp_path / "generators" / "das" / "manifest.json").unlink()
    got = read_protocol(corpus, lists)
    assert got.not_found == {"generator": lists.inputs["generator"]}
    assert got.history is None


def test_evaluation_writes_it_beside_the_figures(tmp_path: Path) -> None:
    corpus, lists = write_run(tmp_path, {"max_history": 15})
    evaluate_recommendations(
        EvalConfig(ks=(1, 2)), "das", tmp_path / "recommendations" / "das", corpus,
        tmp_path / "reports" / "das",
    )  # fmt: skip
    expected = read_protocol(corpus, lists)
    assert load_protocol(tmp_path / "reports" / "das") == expected
    written = json.loads((tmp_path / "reports" / "das" / "protocol.json").read_text())
    assert written["history"] == 15


def protocol(**changes: Any) -> Protocol:
    values: dict[str, Any] = {
        "data": "d", "filters": {}, "order": "timestamp", "split": {"method": "leave_one_out"},
        "num_items": 9, "exclude_seen": True, "history": 20, "beams": 50, "text_fields": None,
        "encoder": {"items": {"encoder": "lsa"}}, "seeds": {"corpus": 0}, "code": {},
        "not_found": {},
    }  # fmt: skip
    return Protocol(**(values | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"data": "e"},
        {"filters": {"min_user_interactions": 5}},
        {"order": "column"},
        {"split": {"method": "leave_one_out", "valid_users": 10}},
        {"num_items": 8},
        {"exclude_seen": False},
        {"history": 50},
        {"beams": 20},
        {"encoder": {"items": {"encoder": "file"}}},
    ],
)
def test_every_field_that_differs_is_named_and_can_be_allowed(changes: dict[str, Any]) -> None:
    (field,) = changes
    pair = {"one": protocol(), "two": protocol(**changes)}
    with pytest.raises(ValueError, match=rf"unlike protocols: {field} \(one: .*, two: .*--allow"):
        check_same(pair)
    check_same(pair, [field])


def test_what_a_method_does_not_have_is_not_unlike() -> None:
    check_same({"das": protocol(), "popularity": protocol(history=None, beams=None, encoder=None)})
    check_same({"a": protocol(), "b": protocol(seeds={"corpus": 1}, code={"corpus": "2.0"})})
    with pytest.raises(ValueError, match=r"history .*; beams"):
        check_same({"a": protocol(), "b": protocol(history=1, beams=1)})


def test_faults() -> None:
    with pytest.raises(ValueError, match=r"no field 'beam' to allow; known: data, filters"):
        check_same({"a": protocol()}, ["beam"])
    with pytest.raises(ValueError, match=r"b has no protocol.json; evaluate it again"):
        check_same({"a": protocol(), "b": None})


def test_reports_of_unlike_protocols_are_refused(
    corpus: Corpus, write_lists: WriteLists, tmp_path: Path
) -> None:
    for seed, name in enumerate(("a", "b")):
        lists = write_lists(f"lists_{name}", seed=seed)
        evaluate_recommendations(EvalConfig(ks=(5, 10)), name, lists, corpus, tmp_path / name)
    path = tmp_path / "b" / "protocol.json"
    found = load_protocol(tmp_path / "b")
    assert found is not None
    plain = compare_reports(tmp_path / "a", tmp_path / "b")
    path.write_text(json.dumps(replace(found, num_items=3).as_json()))
    with pytest.raises(ValueError, match=r"num_items \(.*a: 40, .*b: 3\)"):
        compare_reports(tmp_path / "a", tmp_path / "b")
    assert compare_reports(tmp_path / "a", tmp_path / "b", allow=["num_items"]) == plain


def test_lists_are_compared_by_what_they_are_like_too(
    corpus: Corpus, write_lists: WriteLists, tmp_path: Path
) -> None:
    for seed, name in enumerate(("a", "b")):
        lists = write_lists(f"lists_{name}", seed=seed)
        evaluate_recommendations(EvalConfig(ks=(5, 10)), name, lists, corpus, tmp_path / name)
    tables = [pl.read_parquet(tmp_path / n / "per_query.parquet") for n in ("a", "b")]
    both = tables[0].join(tables[1], on="query").filter(split="test").drop_nulls("popularity@5")
    both = both.drop_nulls("popularity@5_right")
    got = compare_reports(tmp_path / "a", tmp_path / "b", "popularity@5")
    means = (both["popularity@5"].mean(), both["popularity@5_right"].mean())
    assert (got.mean_a, got.mean_b) == pytest.approx(means)
    assert got.num_users == len(both) < (tables[0]["split"] == "test").sum()
    unexpected = (pl.col("rank") <= 5) & (pl.col("expected_rank") > 5)
    hits = tables[0].filter(split="test").select(unexpected.fill_null(False).mean()).item()
    found = compare_reports(tmp_path / "a", tmp_path / "b", "serendipity@5")
    assert found.mean_a == pytest.approx(hits)
    with pytest.raises(ValueError, match=r"does not hold 'diversity@5'.* and embeddings"):
        compare_reports(tmp_path / "a", tmp_path / "b", "diversity@5")
