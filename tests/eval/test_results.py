import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dasrec.core import Corpus
from dasrec.eval.report import EvalConfig, evaluate_recommendations, load_report
from dasrec.eval.result_line import ResultLine
from dasrec.eval.results import (
    append_results,
    hardware,
    read_results,
    results_of_report,
    results_table,
    typed,
)


def line(**changes: Any) -> ResultLine:
    values: dict[str, Any] = {
        "topic": "ladder",
        "dataset": "amazon_beauty_2014",
        "protocol": "leave_one_out/full/item",
        "method": "das",
        "variant": "lora_sft",
        "seed": 0,
        "split": "test",
        "metrics": {"recall@10": 0.1, "ndcg@10": 0.05, "recall@10[tie_free]": 0.04},
        "users": 22363,
        "seconds": {"train": 60},
        "hardware": "2 CPU cores, 24 GiB",
        "command": "dasrec run configs/beauty.yaml",
        "config_sha256": "c" * 64,
        "data_sha256": "d" * 64,
        "code": "0.1.0+abc",
        "date": "2026-01-01T00:00:00+00:00",
    }
    return ResultLine(**(values | changes))


def cells(markdown: str, heading: str) -> list[dict[str, str]]:
    """The rows of the first table below `heading`, by column."""
    below = markdown[markdown.index(heading) :]
    table = re.findall(r"^\|.*\|$", below.split("\n\n")[1], re.MULTILINE)
    header, _, *rows = ([c.strip() for c in row.strip("|").split("|")] for row in table)
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_lines_come_back_as_written(tmp_path: Path) -> None:
    lines = [line(), line(topic="debias", seed=1), line(metrics={"gauc": 0.61}, split="valid")]
    append_results(tmp_path / "results", *lines[:2])
    append_results(tmp_path / "results", lines[2])
    assert read_results(tmp_path / "results") == [lines[1], lines[0], lines[2]]
    raw = json.loads((tmp_path / "results" / "ladder.jsonl").read_text().splitlines()[0])
    assert set(raw) == {
        "topic", "dataset", "protocol", "method", "variant", "seed", "split", "metrics", "users",
        "seconds", "hardware", "command", "config_sha256", "data_sha256", "code", "date",
        "conditions", "intervals",
    }  # fmt: skip


def test_table_says_what_the_lines_say(tmp_path: Path) -> None:
    append_results(
        tmp_path,
        line(metrics={"recall@10": 0.5}),
        line(),  # the same run again: this line counts
        line(seed=1, metrics={"recall@10": 0.3, "ndcg@10": 0.15}),
        line(method="popularity", variant="", metrics={"recall@10": 0.01, "hr@10": 0.01}),
        line(split="valid", metrics={"recall@10": 0.2}),
        line(dataset="ml_1m", metrics={"gauc": 0.61, "recall@10[cold_items]": 0.02}),
    )
    markdown = results_table(tmp_path)
    das, popularity = cells(markdown, "**test**")
    assert das["method"].startswith("das[^")
    assert (das["variant"], das["seeds"], das["users"]) == ("lora_sft", "2", "22363")
    spread = statistics.stdev([0.1, 0.3])
    assert das["recall@10"] == f"0.2000 ± {spread:.4f}"
    assert cells(markdown, "**test, tie-free**")[0]["recall@10"] == "0.0400 (1 of 2)"
    assert popularity["recall@10"] == "0.0100"
    assert popularity["ndcg@10"] == "-"
    assert "hr@10" not in popularity
    assert cells(markdown, "**valid**")[0]["recall@10"] == "0.2000"
    other = markdown[markdown.index("### ml_1m") :]
    assert cells(other, "**test**")[0]["gauc"] == "0.6100"
    assert cells(other, "by slice**")[0]["cold_items"] == "0.0200"


def test_slices_by_user_and_time_have_a_table_of_their_own(tmp_path: Path) -> None:
    parts = {"cold_items": 0.1, "history_1_4": 0.2, "activity_low": 0.3, "time_4": 0.4}
    parts |= {"first_time": 0.5, "repeated": 0.6}
    append_results(tmp_path, line(metrics={f"recall@10[{n}]": v for n, v in parts.items()}))
    page = results_table(tmp_path)
    one, two = (cells(page, f"**test, recall@10 by {title}") for title in ("slice", "user"))
    assert list(one[0])[4:] == ["cold_items", "history_1_4"]
    assert list(two[0])[4:] == ["activity_low", "time_4", "first_time", "repeated"]


def test_footnotes_say_how_the_lists_were_made(tmp_path: Path) -> None:
    known = {"exclude_seen": True, "history": 20, "beams": 50, "data": "d"}
    append_results(
        tmp_path,
        line(conditions=known),
        line(seed=1, conditions=known | {"beams": 20}),
        line(method="sasrec", conditions={"exclude_seen": False, "history": 50, "beams": None}),
        line(method="old"),
    )
    notes = re.findall(r"^\[\^[^]]+\]: (.*)$", results_table(tmp_path), re.MULTILINE)
    assert "; seen items left out, history 20, 50 beams, 20 beams; " in notes[0]
    assert "; seen items listed, history 50; " in notes[1]
    assert "seen items" not in notes[2]


def test_tokenizers_have_tables_of_their_semantic_ids(tmp_path: Path) -> None:
    sids = {"collision_rate": 0.02, "perplexity_0": 101.5, "user_perplexity_1": 0.3}
    sids |= {"alignment_recall@10": 0.25, "gini": 0.1, "usage_0": 0.5}
    quality = {"recall@10": 0.06, "ndcg@10": 0.03, "hr@10": 0.06, "queries": 9.0}
    topic = {"topic": "tokenizers", "variant": "", "seconds": {"tokenize": 61.4, "train": 90}}
    append_results(
        tmp_path,
        line(metrics=quality | sids, **topic),
        line(metrics=quality | sids | {"perplexity_0": 111.5}, seed=1, **topic),
        line(metrics=quality, split="valid", **topic),
        line(metrics=quality, method="item_knn", **topic),
        line(metrics=quality | sids),
    )
    page = results_table(tmp_path)
    page = page[page.index("## tokenizers") :]
    das, knn = cells(page, "**test**")
    assert list(das) == [
        *("method", "variant", "seeds", "users", "recall@10", "ndcg@10"),
        *("tokenize s", "train s", "retrieve s"),
    ]
    assert (das["tokenize s"], das["retrieve s"]) == ("61", "-")
    assert knn["method"].startswith("item_knn[^")
    (items,) = cells(page, "**semantic IDs of items**")  # item_knn has none
    assert items["perplexity_0"] == f"{106.5:.4f} ± {statistics.stdev([101.5, 111.5]):.4f}"
    assert list(items)[4:] == ["collision_rate", "perplexity_0", "alignment_recall@10"]
    assert cells(page, "**semantic IDs of users**")[0]["user_perplexity_1"].startswith("0.3000")
    assert page.count("**semantic IDs of items**") == 1
    ladder = results_table(tmp_path).split("## tokenizers")[0]
    assert "collision_rate" in ladder
    assert "perplexity_0" not in ladder


def test_every_row_has_its_footnote(tmp_path: Path) -> None:
    append_results(tmp_path, line(), line(seed=1, command="dasrec run x"), line(method="sasrec"))
    markdown = results_table(tmp_path)
    marks = set(re.findall(r"\[\^([^]]+)\] \|", markdown))
    notes = dict(re.findall(r"^\[\^([^]]+)\]: (.*)$", markdown, re.MULTILINE))
    assert marks == set(notes)
    assert len(marks) == 2
    first = next(iter(notes.values()))
    for fact in ("`dasrec run x`", "2 CPU cores, 24 GiB", "config cccccccccccc", "train 60 s"):
        assert fact in first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"ladder.jsonl:2: not JSON"),
        ('{"topic": "ladder"}', r"ladder.jsonl:2.dataset: required, but missing"),
        ("seed", r"ladder.jsonl:2.seed: expected a valid integer, got '0'"),
        ("metric", r"ladder.jsonl:2.metrics: expected name, name@K .* got 'Recall 10'"),
        ("nan", r"ladder.jsonl:2.metrics: 'auc' is nan; leave out"),
        ("extra", r"ladder.jsonl:2: unknown key 'methd' \(did you mean 'method'"),
        ("topic", r"ladder.jsonl:2: topic 'debias' belongs in debias.jsonl"),
        ("date", r"ladder.jsonl:2.date: .*yesterday"),
        ("list", r"ladder.jsonl:2: "),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    append_results(tmp_path, line())
    good = line().as_json()
    faulty = {
        "seed": good | {"seed": "0"},
        "metric": good | {"metrics": {"Recall 10": 0.1}},
        "nan": good | {"metrics": {"auc": float("nan")}},
        "extra": good | {"methd": "das"},
        "topic": good | {"topic": "debias"},
        "date": good | {"date": "yesterday"},
        "list": [1],
    }
    with (tmp_path / "ladder.jsonl").open("a") as file:
        file.write(json.dumps(faulty[text]) if text in faulty else text)
    with pytest.raises(ValueError, match=message):
        read_results(tmp_path)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such results folder"):
        results_table(tmp_path / "none")


def test_report_becomes_lines(
    corpus: Corpus, write_lists: Callable[..., Path], tmp_path: Path
) -> None:
    evaluate_recommendations(EvalConfig(), "random", write_lists(), corpus, tmp_path / "report")
    lines = results_of_report(
        tmp_path / "report", topic="ladder", dataset="demo", protocol="leave_one_out/full/item",
        command="dasrec run x", config_sha256="c", data_sha256="d", seed=3,
        more={"collision_rate": 0.0},
    )  # fmt: skip
    append_results(tmp_path / "results", *lines)
    valid, test = read_results(tmp_path / "results")
    splits = load_report(tmp_path / "report").splits
    assert (valid.split, test.split, test.seed, test.method) == ("valid", "test", 3, "random")
    assert test.metrics["recall@10[tie_free]"] == splits["test"]["tie_free"]["recall@10"]
    assert test.metrics["users[tie_free]"] == splits["test"]["tie_free"]["users"]
    assert (test.metrics["collision_rate"], test.users) == (0, 60)
    assert test.conditions == json.loads((tmp_path / "report" / "protocol.json").read_text())
    shown = cells(results_table(tmp_path / "results"), "**test**")[0]
    assert shown["ndcg@5"] == f"{splits['test']['all']['ndcg@5']:.4f}"


def test_hardware_names_cores_and_memory() -> None:
    assert re.match(r"\d+ CPU cores, \d+ GiB", hardware())


def test_a_recorded_command_names_no_place_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parts = ["python", "a.py", "--in", str(tmp_path / "runs" / "x"), "--out", "/far/away/log"]
    assert typed([*parts, "key=[1, 2]"]) == "python a.py --in runs/x --out log 'key=[1, 2]'"
