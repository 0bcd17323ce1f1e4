"""The comparisons as a picture: differences with their intervals, slice by slice."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SLICES = ("all", "unseen", "cold", "warm", "head")
METRIC = "gauc"


def plot_comparisons(report: Mapping[str, Any], path: Path) -> None:
    """Write an SVG: one panel per slice, one line per pair of arms; equal reports, equal bytes.

    Args:
        report: of `compare_report`.
        path: file to write.
    """
    import matplotlib
    from matplotlib.figure import Figure

    found = [c for c in report["comparisons"] if c["metric"] == METRIC and c["slice"] in SLICES]
    slices = [name for name in SLICES if any(c["slice"] == name for c in found)]
    pairs = list(dict.fromkeys((c["arm"], c["against"]) for c in found))
    with matplotlib.rc_context({"svg.hashsalt": "dasrec", "svg.fonttype": "none"}):
        figure = Figure(figsize=(2.6 * max(1, len(slices)) + 2.5, 0.32 * len(pairs) + 1.4))
        panels = figure.subplots(1, max(1, len(slices)), sharey=True, squeeze=False)[0]
        for panel, name in zip(panels, slices, strict=False):
            _draw(panel, [c for c in found if c["slice"] == name], pairs)
            panel.set_title(f"{name} (primary)" if name in _primary(report) else name, fontsize=9)
        if pairs:
            panels[0].set_yticks(range(len(pairs)), [f"{a} - {b}" for a, b in pairs], fontsize=8)
            panels[0].invert_yaxis()
        figure.supxlabel("difference of GAUC, 95% interval over users", fontsize=9)
        figure.tight_layout()
        scratch = path.with_name(f".{path.name}")
        figure.savefig(scratch, format="svg", metadata={"Date": None})
    scratch.replace(path)


def _draw(panel: Any, found: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[str, str]]) -> None:
    panel.axvline(0, color="0.7", linewidth=1)
    for one in found:
        place = pairs.index((one["arm"], one["against"]))
        sure = one["low"] > 0 or one["high"] < 0
        panel.plot([one["low"], one["high"]], [place, place], color="0.4", linewidth=1.5)
        panel.plot(one["difference"], place, "o", color="tab:blue" if sure else "0.6", markersize=5)
    panel.locator_params(axis="x", nbins=4)
    panel.tick_params(labelsize=8)


def _primary(report: Mapping[str, Any]) -> set[str]:
    named = (name.removesuffix("]").split("[") for name in report["primary"])
    return {part for metric, part in named if metric == METRIC}
