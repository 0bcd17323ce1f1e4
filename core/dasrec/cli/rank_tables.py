"""A comparison of CTR models as tables: for the terminal and as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from dasrec.eval.tables import markdown_table, number

Table = tuple[str, list[str], list[list[str]]]
"""Title, header, rows."""

OVERALL = ("auc", "gauc", "uauc", "logloss", "ne", "ece", "ece_floor", "pcoc")
SHOWN = ("auc", "gauc")
P_VALUES = ("p_value", "p_holm", "p_seeds")


def overall_table(report: Mapping[str, Any]) -> Table:
    """All test rows: every metric of every arm, mean over seeds."""
    rows = []
    for name, arm in report["arms"].items():
        figures = arm["slices"]["all"]
        cells = [_mean_and_sd(figures[metric]) for metric in OVERALL]
        seconds = sum(arm["train_seconds"]) / len(arm["train_seconds"])
        rows.append(
            [name, str(len(arm["seeds"])), *cells, str(arm["parameters"]), f"{seconds:.0f}"]
        )
    header = ["arm", "seeds", *OVERALL, "parameters", "seconds"]
    return "All test rows, mean and standard deviation over seeds", header, rows


def slice_table(report: Mapping[str, Any], metric: str = "gauc") -> Table:
    """One metric of every arm, slice by slice."""
    arms = report["arms"].values()
    slices = dict.fromkeys(name for arm in arms for name in arm["slices"])
    rows = [
        [name, *(_mean_and_sd(arm["slices"].get(part, {}).get(metric)) for part in slices)]
        for name, arm in report["arms"].items()
    ]
    users = [_largest(report, part, "num_users") for part in slices]
    rows.append(["users", *map(str, users)])
    rows.append(["rows", *(str(_largest(report, part, "num_rows")) for part in slices)])
    return f"{metric.upper()} by slice", ["arm", *slices], rows


def pair_table(
    report: Mapping[str, Any],
    metrics: Sequence[str] = SHOWN,
    slices: Sequence[str] | None = None,
) -> Table:
    """The comparisons, declared endpoints first.

    Args:
        report: of `compare_rankers`.
        metrics: which to show, beside the declared endpoints.
        slices: in which slices; None = all.
    """
    found = [
        c
        for c in report["comparisons"]
        if c["primary"] or (c["metric"] in metrics and (slices is None or c["slice"] in slices))
    ]
    found.sort(key=lambda c: not c["primary"])  # stable
    rows = [
        [
            f"{c['arm']} - {c['against']}",
            c["metric"] + ("*" if c["primary"] else ""),
            c["slice"],
            str(c["num_users"]),
            *(f"{c[key]:+.4f}" for key in ("difference", "low", "high")),
            *("-" if c[key] is None else f"{c[key]:.2g}" for key in P_VALUES),
        ]
        for c in found
    ]
    header = ["arms", "metric", "slice", "users", "difference", "low", "high"]
    header += ["p", "p (Holm)", "p (seeds)"]
    title = "Differences, 95% interval over users; * = endpoint declared beforehand"
    return title, header, rows


def markdown_comparison(report: Mapping[str, Any]) -> str:
    """What report.md holds."""
    parts = [
        f"# CTR models compared on {report['dataset']}",
        f"Seeds {', '.join(map(str, report['seeds']))}; {report['code']}; {report['hardware']}. "
        f"Intervals: {report['num_samples']} resamples of the users (AUC: from the users' "
        "influence, Obuchowski 1997). p: random swaps within users (AUC: that influence); Holm: "
        "over arms and slices. Both ask whether other users would show the difference between "
        "these trained models. p (seeds), a paired t test, asks whether other trainings would: a "
        "difference that is real passes both. Slices with fewer than "
        f"{report['min_users']} users that count (for GAUC and UAUC those with both labels) are "
        "not compared.",
    ]
    for title, header, rows in (overall_table(report), slice_table(report)):
        parts += [f"## {title}", markdown_table(header, rows)]
    title, header, rows = pair_table(report)
    if rows:
        parts += [f"## {title}", markdown_table(header, rows, left=3)]
    return "\n\n".join(parts) + "\n"


def _mean_and_sd(summary: Mapping[str, Any] | None) -> str:
    if summary is None or summary["mean"] is None:
        return "-"
    mean = number(summary["mean"])
    return mean if summary["sd"] is None else f"{mean} ±{summary['sd']:.4f}"


def _largest(report: Mapping[str, Any], part: str, count: str) -> int:
    arms = report["arms"].values()
    return max(int(arm["slices"].get(part, {}).get(count, 0)) for arm in arms)
