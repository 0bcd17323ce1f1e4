"""Rows of the decoding benchmark's results, read and written out for tables and plots."""

from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]


def table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    rules = [":--", *["--:"] * (len(head) - 1)]
    rows = [head, rules, *[[text(cell) for cell in line] for line in lines]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def text(cell: Any) -> str:
    """A cell: three figures, thousands apart."""
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.3g}" if abs(cell) < 100 else f"{cell:.0f}"
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)


def milliseconds(row: Row, group: str, name: str) -> float | None:
    """CPU milliseconds per user."""
    figures = row[group].get(name)
    users = row["case"].get("batch") or row["batch"]
    return None if figures is None else 1000 * figures["cpu_seconds"] / users


def times(row: Row, peer: str, mine: str) -> str | None:
    """The ratio, as 12.3x."""
    ratio = row["ratio"].get(peer, {}).get(mine)
    return None if ratio is None else f"{ratio:.1f}x"


def rows_of(document: Row, section: str) -> list[Row]:
    """Rows of one section."""
    return [row for row in document["rows"] if row["section"] == section]


def percent(share: float) -> str:
    """A share as 12.3%."""
    return f"{100 * share:.1f}%"


def axes(document: Row) -> dict[str, list[Row]]:
    """Rows by axis: those that differ from the base in this axis alone."""
    grown = rows_of(document, "growth")
    keys = ("codes", "items", "text_tokens", "beams", "history", "batch")
    every = [*rows_of(document, "main"), *grown]
    base = {key: _commonest(row["case"][key] for row in grown) for key in keys}
    return {
        axis: sorted(
            (r for r in every if all(r["case"][k] == base[k] for k in keys if k != axis)),
            key=lambda row: int(row["case"][axis]),
        )
        for axis in ("beams", "history", "batch")
    }


def _commonest(values: Iterable[Any]) -> Any:
    seen = list(values)
    return max(seen, key=seen.count)
