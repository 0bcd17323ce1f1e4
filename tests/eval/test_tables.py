import io

import polars as pl
from rich.console import Console

from dasrec.core import Manifest
from dasrec.eval.report import EvalReport
from dasrec.eval.tables import markdown_report, markdown_table, metric_rows, rich_table


def report(method: str, recall: float) -> EvalReport:
    splits = {
        "test": {
            "all": {"queries": 9.0, "users": 7.0, "recall@10": recall, "ndcg@10": recall / 2},
            "tie_free": {"queries": 4.0, "users": 4.0, "recall@10": recall / 4},
            "cold_items": {"queries": 0.0, "users": 0.0},
        },
        "valid": {"all": {"queries": 9.0, "users": 7.0, "recall@10": 2 * recall}},
    }
    return EvalReport(
        Manifest(kind="", config={}, inputs={}, files={}), method, splits, pl.DataFrame()
    )


def test_rows_hold_the_metrics_that_any_report_has() -> None:
    header, rows = metric_rows([report("das", 0.2), report("popularity", 0.04)])
    assert header == ["method", "users", "recall@10", "ndcg@10", "recall@10[tie_free]"]
    assert rows == [
        ["das", "7", "0.2000", "0.1000", "0.0500"],
        ["popularity", "7", "0.0400", "0.0200", "0.0100"],
    ]


def test_terminal_table_shows_slice_names_as_they_are() -> None:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(rich_table(*metric_rows([report("das", 0.2)]), title="test"))
    text = console.export_text()
    assert [line.split("┃")[-2].strip() for line in text.splitlines()[2:4]] == [
        "recall@10",
        "[tie_free]",
    ]
    assert "0.0500" in text


def test_markdown_has_both_splits_and_slices() -> None:
    text = markdown_report([report("das", 0.2)])
    assert "### test\n\n| method | users | recall@10 |" in text
    assert "### test, by slice\n\n| method | users | recall@10[tie_free] |" in text
    assert "| das | 7 | 0.4000 |" in text[text.index("### valid") :]
    assert "valid, by slice" not in text


def test_markdown_escapes_the_column_separator() -> None:
    assert r"| a\|b |" in markdown_table(["x"], [["a|b"]])
