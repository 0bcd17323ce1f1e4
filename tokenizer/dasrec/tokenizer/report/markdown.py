"""Figures as Markdown."""

from collections.abc import Mapping


def render_report(report: Mapping[str, float], title: str = "Semantic IDs") -> str:
    """The figures of one set of SIDs as a Markdown table."""
    return f"## {title}\n\n" + compare_reports({"value": report})


def compare_reports(reports: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table: a row per figure, a column per report, "-" where one lacks the figure."""
    names = dict.fromkeys(name for report in reports.values() for name in report)
    rows = [["figure", *reports], ["---"] * (len(reports) + 1)]
    rows += [[name, *(number(r.get(name)) for r in reports.values())] for name in names]
    return "".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |\n" for row in rows
    )


def number(value: float | None) -> str:
    """Four significant digits; "-" for a figure that is not there."""
    return "-" if value is None else f"{value:.4g}"
