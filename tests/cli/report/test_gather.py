"""The figures of a report against what they are made from."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.cli.report.tiny_run import make_run

from dasrec.cli.rank_tables import OVERALL
from dasrec.cli.report.document import Document
from dasrec.cli.report.examples import shared_levels
from dasrec.cli.report.gather import report_document
from dasrec.cli.report.page import render_page
from dasrec.core import load_corpus, load_recommendations, load_sids
from dasrec.eval.report import load_report
from dasrec.eval.significance import bootstrap_interval, compare

# tiger is the best on validation, das on test
SKILLS = {
    "das": {"valid": 0.4, "test": 0.8},
    "popularity": {"valid": 0.1, "test": 0.1},
    "tiger": {"valid": 0.7, "test": 0.6},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "a", SKILLS)


@pytest.fixture(scope="module")
def doc(run: Path) -> Document:
    return report_document([run])


def ndcg_by_query(run: Path, method: str) -> tuple[np.ndarray, np.ndarray]:
    table = load_report(run / "reports" / method).per_query.filter(pl.col("split") == "test")
    rank = table["rank"].fill_null(0).to_numpy()
    gain = np.where((rank > 0) & (rank <= 10), 1 / np.log2(1 + np.maximum(rank, 1)), 0)
    return gain, table["user_idx"].to_numpy()


def test_estimates_are_the_reports_figures_with_intervals_over_users(
    run: Path, doc: Document
) -> None:
    assert [system.label for system in doc.systems] == ["das", "tiger", "popularity"]
    for system in doc.systems:
        recorded = load_report(run / "reports" / system.method).splits["test"]
        for metric in ("recall@5", "ndcg@5", "recall@10", "ndcg@10"):
            assert system.estimates[metric].mean == pytest.approx(recorded["all"][metric])
        for name, value in system.slices.items():
            assert value.mean == pytest.approx(recorded[name]["recall@10"])
        values, users = ndcg_by_query(run, system.method)
        assert system.estimates["ndcg@10"] == pytest.approx(bootstrap_interval(values, users))
        assert system.others["coverage@10"] == recorded["all"]["coverage@10"]


def test_methods_are_compared_with_the_best_on_validation_not_on_test(
    run: Path, doc: Document
) -> None:
    chosen = {system.label: system.chosen for system in doc.systems}
    assert chosen == {"das": "", "popularity": "", "tiger": "the best on the validation queries"}
    base, users = ndcg_by_query(run, "tiger")
    p_values = {}
    for system in doc.systems:
        if system.label == "tiger":
            assert system.differences == {}
            continue
        found = system.differences["ndcg@10"]
        one = compare(base, ndcg_by_query(run, system.method)[0], users)
        assert found.against == "tiger"
        assert (found.difference, found.low, found.high) == pytest.approx(one[2:5])
        assert found.p_value == pytest.approx(one.p_value)
        p_values[found.p_value] = found.p_holm
    small, large = sorted(p_values)
    assert p_values[small] == pytest.approx(min(1, 2 * small))
    assert p_values[large] == pytest.approx(max(large, p_values[small]))


def test_a_baseline_can_be_asked_for(run: Path) -> None:
    doc = report_document([run], baseline="popularity", methods=["popularity", "das"])
    assert [(s.label, s.chosen) for s in doc.systems] == [
        ("das", ""),
        ("popularity", "as asked for"),
    ]
    assert [one.label for one in doc.sids] == ["das"]


def test_an_example_shows_what_the_artifacts_hold(run: Path, doc: Document) -> None:
    corpus = load_corpus(run / "corpus")
    users = corpus.users["user_id"].to_list()
    ids = corpus.items["item_id"].to_list()
    assert len(doc.examples) >= 4
    for example in doc.examples:
        query = int(corpus.user_start[users.index(example.user_id) + 1]) - 1
        past = corpus.item_idx[corpus.user_start[users.index(example.user_id)] : query].tolist()
        assert [item.item_id for item in example.history] == [ids[i] for i in past]
        assert [shown.system for shown in example.lists] == ["tiger", "das", "popularity"]
        for shown in example.lists:
            lists = load_recommendations(run / "recommendations" / shown.system, corpus)
            items = lists.item_idx[np.flatnonzero(lists.queries == query)[0]].tolist()
            target = int(corpus.item_idx[query])
            assert [item.item_id for item in shown.items] == [ids[i] for i in items]
            assert shown.target.item_id == ids[target]
            assert shown.rank == (items.index(target) + 1 if target in items else None)
            if shown.system == "popularity":
                assert not any(item.sid for item in shown.items)
                continue
            codes = load_sids(run / "sids" / shown.system).items.codes[:, :2].tolist()
            for item, shown_item in zip(items, shown.items, strict=True):
                prefixes = [
                    next((n for n in range(2) if codes[old][n] != codes[item][n]), 2)
                    for old in past
                ]
                assert shown_item.shared == max(prefixes)
                latest = max(i for i, n in enumerate(prefixes) if n == max(prefixes))
                title = corpus.items["title"][past[latest]]
                assert shown_item.like == (title if max(prefixes) else "")
        hit = example.lists[0].rank
        expected = "not among" if hit is None else "among the first 3" if hit <= 3 else "further"
        assert expected in example.kind


def test_curves_come_from_logs_of_every_stage(doc: Document) -> None:
    curves = {(c.stage, c.quantity, c.model): (c.epochs, c.values) for c in doc.curves}
    assert curves["Tokenizer", "item/recon", "das"] == ((1, 2, 3), (1, 1 / 2, 1 / 3))
    assert curves["Pretraining", "eval_ndcg@10", "das"] == ((1, 2), (0.25, 0.5))
    assert curves["Pretraining", "loss", "das"] == ((1, 2), (3, 2))
    assert curves["Ranker", "gauc", "das"] == ((1, 2), (0.5, 0.625))
    assert not {quantity for _, quantity, _ in curves} & {"train_loss", "learning_rate", "step"}


def test_sids_and_ranking_are_there(run: Path, doc: Document) -> None:
    codes = load_sids(run / "sids" / "das").items.codes
    das = doc.sids[0]
    assert das.label == "das"
    assert das.usage == tuple(
        tuple(sorted(np.bincount(codes[:, level], minlength=4).tolist(), reverse=True))
        for level in range(2)
    )
    sizes = [prefix.size for prefix in das.prefixes]
    assert sizes == [size for size in das.usage[0] if size]
    (ranking,) = doc.ranking
    assert ranking.rows == (("das", "all", 0.75, 0.625, 0.5, None),)


def test_a_comparison_of_rankers_is_shown_with_its_endpoints(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", {})
    figures = {"mean": 0.5, "sd": None, "values": [0.5]}
    arm: dict[str, Any] = {"seeds": [0], "train_seconds": [2.0], "parameters": 7}
    arm["slices"] = {"all": dict.fromkeys(OVERALL, figures) | {"num_users": 9, "num_rows": 99}}
    compared = [
        {"arm": "das", "against": "id_only", "slice": part, "metric": metric, "primary": primary}
        | {"difference": 0.25, "low": 0.125, "high": 0.5, "p_holm": 0.03}
        for part, metric, primary in (
            ("all", "gauc", True),
            ("unseen", "gauc", True),
            ("cold", "gauc", False),
            ("all", "auc", False),
        )
    ]
    report = {"arms": {"das": arm, "id_only": arm}, "comparisons": compared}
    (run / "rank_compare").mkdir()
    (run / "rank_compare" / "report.json").write_text(json.dumps(report))
    _, overall, by_slice = report_document([run]).ranking
    assert [row[0] for row in overall.rows] == ["das", "id_only"]
    assert [row[0] for row in by_slice.rows] == ["das", "id_only", "users", "rows"]
    assert [(e.label, e.difference, e.p_holm) for e in overall.effects] == [
        ("das - id_only: GAUC", (0.25, 0.125, 0.5), 0.03),
        ("das - id_only: GAUC, unseen", (0.25, 0.125, 0.5), 0.03),
    ]
    assert "das - id_only: GAUC, unseen 0.2500 (0.1250 to 0.5000)" in render_page(
        report_document([run])
    )


def test_only_answers_to_the_same_queries_are_compared(tmp_path: Path) -> None:
    skills = {"das": {"valid": 0.5, "test": 0.5}}
    paths = [
        make_run(tmp_path / "a", skills),
        make_run(tmp_path / "b", skills, seed=1),
        make_run(tmp_path / "c", skills, data=1),
    ]
    doc = report_document(paths)
    assert {s.label: s.group for s in doc.systems} == {"a: das": 1, "b: das": 1, "c: das": 2}
    assert {s.label: bool(s.differences or s.chosen) for s in doc.systems} == {
        "a: das": True,
        "b: das": True,
        "c: das": False,
    }
    assert doc.differing == {"filters": tuple(run.protocol["filters"] for run in doc.runs)}
    assert report_document(paths[:2]).differing == {}


def test_a_run_without_lists_has_the_rest(tmp_path: Path) -> None:
    doc = report_document([make_run(tmp_path / "a", {})])
    assert not doc.systems
    assert not doc.examples
    assert all((doc.sids, doc.curves, doc.ranking))


def test_what_another_corpus_left_behind_is_read_only_if_asked_for(tmp_path: Path) -> None:
    skills = {"das": {"valid": 0.5, "test": 0.5}}
    run, other = make_run(tmp_path / "a", skills), make_run(tmp_path / "b", skills, data=1)
    shutil.copytree(other / "reports" / "das", run / "reports" / "stale")
    shutil.copytree(other / "sids" / "das", run / "sids" / "stale")
    doc = report_document([run], methods=["das"], tokenizers=["tiger"])
    assert [system.label for system in doc.systems] == ["das"]
    assert [one.label for one in doc.sids] == ["tiger"]
    assert report_document([run], methods=[], tokenizers=["das"]).systems == ()
    with pytest.raises(ValueError, match="reports/stale is about another corpus"):
        report_document([run])
    with pytest.raises(ValueError, match="sids/stale: was built from corpus"):
        report_document([run], methods=["das"], tokenizers=["stale"])


def test_errors_name_what_there_is(run: Path) -> None:
    with pytest.raises(ValueError, match=r"--method letter: .*there are das, popularity, tiger"):
        report_document([run], methods=["letter"])
    with pytest.raises(ValueError, match="--baseline letter: no run has a report of it on test"):
        report_document([run], baseline="letter")
    with pytest.raises(ValueError, match="is given twice"):
        report_document([run, run])
    with pytest.raises(FileNotFoundError, match="no 'corpus' artifact here"):
        report_document([run / "nothing"])


def test_shared_levels_stop_at_the_first_difference() -> None:
    rng = np.random.default_rng(0)
    history, sid = rng.integers(0, 2, (50, 4)), rng.integers(0, 2, 4)
    expected = [next((n for n in range(4) if row[n] != sid[n]), 4) for row in history]
    assert shared_levels(history, sid).tolist() == expected
