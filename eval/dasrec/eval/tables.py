"""Tables of metrics, methods down and metrics across: for a terminal and as Markdown."""

from collections.abc import Sequence

from rich.table import Table

from dasrec.eval.report import EvalReport, split_key

COLUMNS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10", "recall@10[tie_free]", "ndcg@10[tie_free]")
"""What is shown unless told otherwise; the published tables hold the first four."""


def metric_rows(
    reports: Sequence[EvalReport], split: str = "test", columns: Sequence[str] = COLUMNS
) -> tuple[list[str], list[list[str]]]:
    """Header and one row of text per report: method, users, then the metrics that any of them has.

    Args:
        reports: one per method, in the order wanted.
        split: "valid" or "test".
        columns: metric keys, slices as in "recall@10[tie_free]".
    """
    kept = [report for report in reports if split in report.splits]
    values = [{key: _value(report, split, key) for key in columns} for report in kept]
    shown = [key for key in columns if any(row[key] is not None for row in values)]
    rows = [
        [
            report.method,
            str(int(report.splits[split]["all"]["users"])),
            *(number(row[key]) for key in shown),
        ]
        for report, row in zip(kept, values, strict=True)
    ]
    return ["method", "users", *shown], rows


def _value(report: EvalReport, split: str, key: str) -> float | None:
    name, part = split_key(key)
    return report.splits[split].get(part, {}).get(name)


def number(value: float | None) -> str:
    """A figure with four digits after the point, whole numbers without, a dash for nothing.

    >>> number(0.05), number(22363.0), number(None)
    ('0.0500', '22363', '-')
    """
    if value is None:
        return "-"
    return str(int(value)) if value == int(value) and abs(value) > 1 else f"{value:.4f}"


def rich_table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Table:
    """A table for `rich.print`; the first column to the left, figures to the right."""
    table = Table(title=title or None)
    for index, name in enumerate(header):
        text = name.replace("[", "\n\\[")  # a slice goes on a second line, and is no markup
        table.add_column(text, justify="right" if index else "left", no_wrap=not index)
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A GitHub table; the first `left` columns to the left, the others to the right.

    >>> print(markdown_table(["method", "recall@10"], [["das", "0.1000"]]))
    | method | recall@10 |
    | :-- | --: |
    | das | 0.1000 |
    """
    rules = [":--" if index < left else "--:" for index in range(len(header))]
    lines = [header, rules, *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines
    )


def markdown_report(reports: Sequence[EvalReport]) -> str:
    """What a run folder's results.md holds: test, then valid, and below each recall@10 by slice."""
    parts = []
    for split in ("test", "valid"):
        kept = [report for report in reports if split in report.splits]
        if not kept:
            continue
        names = dict.fromkeys(name for report in kept for name in report.splits[split])
        slices = [f"recall@10[{name}]" for name in names if name != "all"]
        for title, columns in ((split, COLUMNS), (f"{split}, by slice", slices)):
            header, rows = metric_rows(kept, split, columns)
            if len(header) > 2:
                parts += [f"### {title}", markdown_table(header, rows)]
    return "\n\n".join(parts) + "\n"
