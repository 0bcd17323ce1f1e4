"""The growth plot of the decoding benchmark."""

from pathlib import Path
from typing import Any

import matplotlib
from benchmarks.decoding_cells import axes, milliseconds
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator

STYLES = {
    "nested": ("C3", "s", "generate + dict trie"),
    "reused": ("C1", "^", "generate, prompt reused"),
    "level": ("C0", "o", "ours"),
    "trie": ("C2", "D", 'ours, normalize="trie"'),
    "floor": ("0.5", ".", "forwards alone"),
}
LABELS = {"items": "items", "beams": "beams", "history": "prompt tokens", "batch": "batch"}


def draw(document: dict[str, Any], folder: Path) -> list[Path]:
    """One figure, a panel for each axis; the same bytes for the same results."""
    curves = {"items": _by_items(document), **_by_case(document)}
    curves = {axis: lines for axis, lines in curves.items() if any(lines.values())}
    if not curves:
        return []
    figure = Figure(figsize=(4.2 * len(curves), 3.6), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for panel, (axis, lines) in zip(panels, curves.items(), strict=True):
        _panel(panel, axis, lines)
    panels[0].set_ylabel("CPU milliseconds per user")
    handles: dict[str, Any] = {}
    for panel in figure.axes:
        handles |= dict(zip(*panel.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles),
        frameon=False,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "decoding_growth.svg"
    with matplotlib.rc_context({"svg.hashsalt": "dasrec", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})
    return [path]


Lines = dict[str, list[tuple[int, float]]]


def _panel(panel: Axes, axis: str, lines: Lines) -> None:
    for name, points in lines.items():
        if points:
            color, marker, label = STYLES[name]
            panel.plot(*zip(*points, strict=True), color=color, marker=marker, label=label, ms=4)
    panel.set(xscale="log", yscale="log", xlabel=LABELS[axis])
    measured = sorted({place for points in lines.values() for place, _ in points})
    panel.set_xticks(measured, [EngFormatter(sep="")(place) for place in measured])
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.minorticks_off()
    panel.grid(alpha=0.3, linewidth=0.5)
    panel.spines[["top", "right"]].set_visible(False)


def _by_case(document: dict[str, Any]) -> dict[str, Lines]:
    if not any(row["section"] == "growth" for row in document["rows"]):
        return {}
    return {
        axis: {
            name: [
                (row["case"][axis], spent)
                for row in rows
                for group in ("ours", "peers")
                if (spent := milliseconds(row, group, name)) is not None
            ]
            for name in STYLES
        }
        for axis, rows in axes(document).items()
    }


def _by_items(document: dict[str, Any]) -> Lines:
    """Of the first code shape."""
    row = next((row for row in document["rows"] if row["section"] == "items"), None)
    if row is None:
        return {}
    return {
        name: [
            (size["items"], 1000 * figures["cpu_seconds"] / row["case"]["batch"])
            for size in row["by_items"]
            if (figures := (size["ours"] | size["peers"]).get(name)) is not None
        ]
        for name in STYLES
    }
