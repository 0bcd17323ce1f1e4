import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dasrec.core import (
    Corpus,
    SemanticIds,
    SidTable,
    build_config,
    load_recommendations,
    load_sids,
    write_artifact,
)
from dasrec.core.semantic_ids import save_sids_payload
from dasrec.eval.report import EvalConfig, evaluate_recommendations, load_report
from dasrec.eval.slices import slice_masks

WriteLists = Callable[..., Path]
CONFIG = EvalConfig(ks=(5, 10))


def sids_of(corpus: Corpus, path: Path) -> SemanticIds:
    """Two items a SID: 0 and 1 share theirs, 2 and 3, ..., the last four have one each."""
    number = np.arange(corpus.num_items) // 2
    number[-4:] = np.arange(100, 104)
    codes = np.stack([number // 16, number % 16], 1).astype(np.uint16)
    none = np.zeros((len(codes), 1), np.float32)
    table = SidTable(codes, (16, 16), none, ())
    write_artifact(
        path, "semantic_ids", {}, {"corpus": corpus.manifest},
        lambda scratch: save_sids_payload(scratch, table, None),
    )  # fmt: skip
    return load_sids(path, corpus.manifest)


def test_report_is_what_a_loop_says(
    corpus: Corpus, write_lists: WriteLists, tmp_path: Path
) -> None:
    path = write_lists()
    evaluate_recommendations(CONFIG, "random", path, corpus, tmp_path / "report")
    report = load_report(tmp_path / "report")
    lists = load_recommendations(path, corpus)
    assert report.method == "random"
    for number, split in ((1, "valid"), (2, "test")):
        chosen = np.flatnonzero(corpus.split[lists.queries] == number)
        queries = lists.queries[chosen]
        masks = slice_masks(corpus, queries) | {"all": np.ones(len(queries), bool)}
        assert set(report.splits[split]) == set(masks)
        for name, mask in masks.items():
            recall, ndcg, users = [], [], set()
            for row in chosen[mask]:
                target = int(corpus.item_idx[lists.queries[row]])
                top = lists.item_idx[row, :10].tolist()
                recall.append(target in top)
                ndcg.append(1 / np.log2(2 + top.index(target)) if target in top else 0)
                users.add(int(corpus.user_idx[lists.queries[row]]))
            got = report.splits[split][name]
            assert (got["queries"], got["users"]) == (len(recall), len(users))
            if recall:
                assert got["recall@10"] == pytest.approx(np.mean(recall))
                assert got["ndcg@10"] == pytest.approx(np.mean(ndcg))
            else:
                assert set(got) == {"queries", "users"}
    assert 0 < report.splits["test"]["all"]["invalid_rate@10"] < 1


def test_per_query_file_gives_the_report_back(
    corpus: Corpus, write_lists: WriteLists, tmp_path: Path
) -> None:
    evaluate_recommendations(CONFIG, "random", write_lists(), corpus, tmp_path / "report")
    report = load_report(tmp_path / "report")
    table = report.per_query
    assert sorted(table["query"].to_list()) == sorted(
        [*corpus.queries("valid"), *corpus.queries("test")]
    )
    assert table["rank"].null_count() > 0
    test = table.filter(split="test", **{"slice.tie_free": True})
    recall = (test["rank"].fill_null(99) <= 5).mean()
    assert report.splits["test"]["tie_free"]["recall@5"] == pytest.approx(recall)


def test_same_inputs_same_fingerprint(
    corpus: Corpus, write_lists: WriteLists, tmp_path: Path
) -> None:
    path = write_lists()
    one, two = (
        evaluate_recommendations(CONFIG, "random", path, corpus, tmp_path / name)
        for name in ("one", "two")
    )
    assert one.fingerprint == two.fingerprint
    assert set(one.inputs) == {"corpus", "recommendations"}


def test_sid_level_counts_what_shares_the_sid(
    corpus: Corpus, write_lists: WriteLists, tmp_path: Path
) -> None:
    path, sids = write_lists(), sids_of(corpus, tmp_path / "semantic_ids")
    evaluate_recommendations(CONFIG, "random", path, corpus, tmp_path / "report", sids=sids)
    got = json.loads((tmp_path / "report" / "report.json").read_text())["test"]
    lists = load_recommendations(path, corpus)
    codes = [tuple(row) for row in sids.items.codes.tolist()]
    hits, shared = [], []
    for query, row in zip(lists.queries, lists.item_idx, strict=True):
        if corpus.split[query] == 2:
            target = codes[corpus.item_idx[query]]
            distinct = list(dict.fromkeys(codes[item] for item in row if item >= 0))
            hits.append(target in distinct[:5])
            shared.append(codes.count(target) > 1)
    assert got["sid_level"]["recall@5"] == pytest.approx(np.mean(hits))
    assert got["sid_level"]["recall@5"] > got["all"]["recall@5"]
    assert got["all"]["target_collision_rate"] == pytest.approx(np.mean(shared))


def test_queries_without_a_list_are_counted(
    corpus: Corpus, write_lists: WriteLists, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        evaluate_recommendations(CONFIG, "r", write_lists(skip=4), corpus, tmp_path / "report")
    splits = load_report(tmp_path / "report").splits
    assert [splits[split]["all"]["missing_queries"] for split in ("valid", "test")] == [2, 2]
    assert "2 queries of valid have no list" in caplog.text


def test_refuses_lists_shorter_than_k(
    corpus: Corpus, write_lists: WriteLists, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"lists hold 7 items at most, but eval.ks asks for 10"):
        evaluate_recommendations(CONFIG, "r", write_lists(width=7), corpus, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_config_refuses_cut_offs_out_of_order() -> None:
    with pytest.raises(ValueError, match=r"eval.ks: expected ascending cut-offs"):
        build_config(EvalConfig, {"ks": [10, 5]}, "x.yaml: eval")
    with pytest.raises(ValueError, match=r"eval.slices.0: expected 'ties'"):
        build_config(EvalConfig, {"slices": ["warm"]}, "x.yaml: eval")
