"""Figures of others: hand-made lines, where they are shown, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.eval.test_results import cells, line

from dasrec.eval.result_line import check_topic
from dasrec.eval.results import append_results, read_published, read_results, results_table

COMMITTED = Path(__file__).parents[2] / "docs" / "results"
PLACE = {"dataset": "amazon_beauty_2014", "protocol": "leave_one_out/full/item"}


def reported(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "topic": "published",
        **PLACE,
        "method": "TIGER",
        "metrics": {"ndcg@10": 0.0384, "recall@5": 0.0454, "recall@10": 0.0648},
        "source": "TIGER paper",
        "address": "https://example.org/tiger",
        "evidence": "paper",
        "differences": ["seen items: not stated", "hits on SIDs"],
    }
    return values | changes


def write(folder: Path, *lines: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    text = "".join(f"{json.dumps(values)}\n" for values in lines)
    (folder / "published.jsonl").write_text(text)


def test_the_table_stands_right_below_our_test_table(tmp_path: Path) -> None:
    append_results(tmp_path, line(), line(split="valid"), line(topic="generator"))
    write(
        tmp_path,
        reported(),
        reported(
            method="SASRec",
            metrics={"recall@10": 0.05, "ndcg@5": 0.02},
            evidence="re-run",
            differences=["hits on SIDs", "one seed"],
        ),
    )
    page = results_table(tmp_path)
    titles = re.findall(r"^(?:#+ .*|\*\*.*\*\*)$", page[page.index("## ladder") :], re.MULTILINE)
    assert titles[2:5] == [
        "**test**",
        "**published figures, not measured by us**",
        "**test, tie-free**",
    ]
    assert page.count("not measured by us**") == 1  # below neither valid nor another topic
    tiger, sasrec = cells(page, "**published figures")
    assert list(tiger) == [
        *("method", "evidence", "source"),
        *("recall@5", "ndcg@5", "recall@10", "ndcg@10", "differences"),
    ]
    assert (tiger["method"], tiger["evidence"]) == ("TIGER", "paper")
    assert tiger["source"] == "[TIGER paper](https://example.org/tiger)"
    assert (tiger["recall@5"], tiger["ndcg@5"], tiger["ndcg@10"]) == ("0.0454", "-", "0.0384")
    assert (tiger["differences"], sasrec["differences"]) == ("1, 2", "2, 3")
    assert "\n\n1. seen items: not stated\n2. hits on SIDs\n3. one seed\n\n" in page


def test_a_data_set_that_we_have_no_figure_of_is_shown_alone(tmp_path: Path) -> None:
    append_results(tmp_path, line())
    other = {"dataset": "amazon_sports_2014"}
    write(tmp_path, reported(**other), reported(protocol="column/full/item"))
    page = results_table(tmp_path)
    for place in ("sports_2014, leave_one_out", "beauty_2014, column"):
        below = page[page.index(f"### amazon_{place}/full/item\n\n**published figures") :]
        assert cells(below, "**published")[0]["method"] == "TIGER"
    ours = page[page.index("### amazon_beauty_2014, leave_one_out") :].split("###")[1]
    assert "published" not in ours


def test_hit_rates_are_ordered_by_cut_off(tmp_path: Path) -> None:
    names = ("ndcg@10", "hr@10", "ndcg@3", "hr@5", "hr@3", "ndcg@5")
    write(tmp_path, reported(metrics={name: 0.1 for name in names}))
    header = list(cells(results_table(tmp_path), "**published")[0])
    assert header[3:-1] == ["hr@3", "ndcg@3", "hr@5", "ndcg@5", "hr@10", "ndcg@10"]


def test_no_measurement_goes_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"topic: 'published' holds what others report"):
        check_topic("published")
    with pytest.raises(ValueError, match="published"):
        line(topic="published")
    write(tmp_path, reported())
    assert read_results(tmp_path) == []
    assert [found.method for found in read_published(tmp_path)] == ["TIGER"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topic": "ladder"}, r"\.topic: expected 'published', got 'ladder'"),
        ({"metrics": {"recall@10": 6.48}}, r"\.metrics: expected shares from 0 to 1, got 6.48"),
        ({"metrics": {"Recall@10": 0.06}}, r"\.metrics: expected name@K, got 'Recall@10'"),
        ({"metrics": {"recall@10[cold]": 0.06}}, r"\.metrics: expected name@K, got 'recall@10"),
        ({"metrics": {"ndcg@10": 0.05, "ndcg@5": 0.06}}, r"\.metrics: 'ndcg@5' is 0.06, more than"),
        ({"metrics": {}}, r"\.metrics: "),
        ({"address": "TIGER, table 1"}, r"\.address: .*https"),
        ({"evidence": "rumour"}, r"\.evidence: expected 'paper', 're-run' or 'reported by users'"),
        ({"differences": []}, r"\.differences: "),
        ({"diferences": ["x"]}, r": unknown key 'diferences' \(did you mean 'differences'"),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path, reported(), reported(**changes))
    with pytest.raises(ValueError, match=rf"published\.jsonl:2{message}") as caught:
        results_table(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_required_field_is_missed(tmp_path: Path) -> None:
    values = reported()
    del values["differences"]
    write(tmp_path, values)
    with pytest.raises(ValueError, match=r"published.jsonl:1.differences: required, but missing"):
        results_table(tmp_path)


def test_the_committed_figures_are_of_our_data_sets() -> None:
    found = read_published(COMMITTED)
    assert {"amazon_beauty_2014", "amazon_industrial_2018"} <= {x.dataset for x in found}
    ours = {(x.dataset, x.protocol) for x in read_results(COMMITTED)}
    assert {x.place for x in found if x.dataset in dict(ours)} <= ours
    keys = [(x.place, x.method, x.source) for x in found]
    assert len(keys) == len(set(keys))
