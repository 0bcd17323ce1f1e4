"""The plots of a report."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape

from dasrec.cli.report.charts import MARKERS, Dot, Line, interval_plot, line_plot
from dasrec.cli.report.document import Curve, Document, Estimate, SidFigures
from dasrec.cli.report.tables import Group, groups
from dasrec.cli.report.words import metric_label, p_text, quantity_label, slice_label
from dasrec.eval.tables import number
from dasrec.tokenizer.report.charts import usage_chart

MOST_MODELS = len(MARKERS)
MOST_USAGE = 4
"""Sets of SIDs whose code usage is drawn."""
FIRST = 3
"""Quantities of a stage that are shown without a click."""
_IMPORTANT = (
    "eval_ndcg", "ndcg", "eval_recall", "recall", "loss", "reward", "gauc", "auc",
    "item/recon", "user/recon", "total",
)  # fmt: skip
_HIERARCHY = {
    "category_purity": "Items of one category",
    "copurchase": "Co-purchases together",
    "purity": "Embedding neighbours together",
}


class Plot(NamedTuple):
    """A drawing and what stands above it."""

    title: str
    note: str
    svg: Markup


class Stage(NamedTuple):
    """The curves of one training stage."""

    name: str
    models: dict[str, int]
    """Those that are drawn, and their series."""
    hidden: int
    """Models that are not drawn."""
    first: list[Plot]
    rest: list[Plot]


def headline(doc: Document, group: Group) -> list[Plot]:
    """The two main metrics of every system of a group."""
    found = []
    for metric in (doc.metric, doc.slice_metric):
        rows = []
        for system in group.systems:
            value = system.estimates[metric]
            drawn = system.label in group.plotted
            series = group.plotted.index(system.label) if drawn else -1
            rows.append((system.label, [Dot(series, value, _told(system.label, value))]))
        title = f"{metric_label(metric)} on {doc.split}"
        summary = "; ".join(dot.told for _, (dot,) in rows)
        found.append(Plot(title, "95% intervals", interval_plot(rows, f"{title}: {summary}")))
    return found


def slices(doc: Document, group: Group) -> list[Plot]:
    """A plot per kind of slice, the plotted systems of a group in each row."""
    systems = {system.label: system for system in group.systems}
    metric, found = metric_label(doc.slice_metric), []
    for panel in doc.slices:
        if panel.group != group.number or len(panel.queries) < 2:  # one slice is all queries
            continue
        rows = []
        for name in panel.queries:
            dots = []
            for series, label in enumerate(group.plotted):
                value = systems[label].slices.get(name)
                if value is not None:
                    dots.append(Dot(series, value, _told(f"{label}, {slice_label(name)}", value)))
            rows.append((slice_label(name), dots))
        summary = "; ".join(dot.told for _, dots in rows for dot in dots)
        told = f"{metric} by {panel.title.lower()}: {summary}"
        found.append(Plot(panel.title, metric, interval_plot(rows, told)))
    return found


def sid_series(doc: Document) -> dict[str, int]:
    """The sets of SIDs that are drawn, and their series."""
    return _series([one.label for one in doc.sids], doc)


def hierarchy(doc: Document) -> list[Plot]:
    """What items that share their first codes have in common, by the number of codes."""
    figures_of, found = {one.label: one.figures for one in doc.sids}, []
    for figure, title in _HIERARCHY.items():
        lines = []
        for name, series in sid_series(doc).items():
            points = _by_prefix(figures_of[name], figure)
            if points:
                lines.append(Line(series, name, *zip(*points, strict=True)))
        if any(len(line.x) > 1 for line in lines):
            told = f"{title} by shared codes: {_ends(lines)}"
            found.append(Plot(title, "by shared codes", line_plot(lines, told)))
    return found


def _by_prefix(figures: dict[str, float], figure: str) -> list[tuple[float, float]]:
    points, length = [], 1
    while (value := figures.get(f"item/{figure}_{length}")) is not None:
        points.append((float(length), value))
        length += 1
    return points


def usage(doc: Document) -> list[Plot]:
    """Items per codeword, level by level, on one scale for a level."""
    shown = [
        one for name in list(sid_series(doc))[:MOST_USAGE] for one in doc.sids if one.label == name
    ]
    found = []
    for level in range(max((len(one.usage) for one in shown), default=0)):
        having = [one for one in shown if level < len(one.usage)]
        highest = max(max(one.usage[level]) for one in having)
        found += [_usage(one, level, highest) for one in having]
    return found


def _usage(one: SidFigures, level: int, highest: int) -> Plot:
    count_K = np.array(one.usage[level])
    title = f"Level {level + 1}"
    summary = escape(
        f"{one.label}, {title.lower()}: {(count_K > 0).sum()} of {len(count_K)} codes in use, at "
        f"most {count_K.max()} items"
    )
    note = f"{one.label}, {100 * (count_K > 0).mean():.0f}% in use"
    return Plot(title, note, Markup(usage_chart(count_K, highest, summary)))


def training(doc: Document) -> list[Stage]:
    """The curves, stage by stage, the quantities that matter most first."""
    found = []
    for stage in dict.fromkeys(curve.stage for curve in doc.curves):
        curves = [curve for curve in doc.curves if curve.stage == stage]
        models = list(dict.fromkeys(curve.model for curve in curves))
        series = _series(models, doc)
        kept = [curve for curve in curves if curve.model in series]
        plots = [_training_plot(stage, quantity, kept, series) for quantity in _quantities(kept)]
        hidden = len(models) - len(series)
        found.append(Stage(stage, series, hidden, plots[:FIRST], plots[FIRST:]))
    return found


def _training_plot(
    stage: str, quantity: str, curves: Sequence[Curve], series: Mapping[str, int]
) -> Plot:
    lines = [
        Line(series[curve.model], curve.model, curve.epochs, curve.values)
        for curve in curves
        if curve.quantity == quantity
    ]
    title = quantity_label(quantity)
    return Plot(title, "by epoch", line_plot(lines, f"{stage}, {title} by epoch: {_ends(lines)}"))


def _quantities(curves: Iterable[Curve]) -> list[str]:
    names = dict.fromkeys(curve.quantity for curve in curves)

    def importance(name: str) -> int:
        base = name.partition("@")[0]
        return _IMPORTANT.index(base) if base in _IMPORTANT else len(_IMPORTANT)

    return sorted(names, key=importance)


class Ranked(NamedTuple):
    """CTR figures as table and plot."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | float | None, ...], ...]
    plot: Plot | None


def ranking(doc: Document) -> list[Ranked]:
    """The CTR tables; below one with comparisons their differences."""
    found = []
    for one in doc.ranking:
        rows = [
            (
                effect.label,
                [
                    Dot(
                        -1,
                        effect.difference,
                        f"{_told(effect.label, effect.difference)}, p {p_text(effect.p_holm)}",
                    )
                ],
            )
            for effect in one.effects
        ]
        plot = None
        if rows:
            told = "; ".join(dot.told for _, (dot,) in rows)
            plot = Plot("Differences", "95% intervals", interval_plot(rows, told, from_zero=False))
        found.append(Ranked(one.title, one.header, one.rows, plot))
    return found


def _series(names: Sequence[str], doc: Document) -> dict[str, int]:
    """The names that are drawn, as many as can be told apart, and their series.

    A plotted system has the colour that it has in the plots of its group, where that is free.
    """
    own = {label: place for group in groups(doc) for place, label in enumerate(group.plotted)}
    chosen = sorted(names, key=lambda name: name not in own)[:MOST_MODELS]
    taken: dict[str, int] = {}
    for name in chosen:
        if name in own and own[name] not in taken.values():
            taken[name] = own[name]
    free = iter(i for i in range(MOST_MODELS) if i not in taken.values())
    return {name: taken[name] if name in taken else next(free) for name in names if name in chosen}


def _told(label: str, value: Estimate) -> str:
    return f"{label} {number(value.mean)} ({number(value.low)} to {number(value.high)})"


def _ends(lines: Iterable[Line]) -> str:
    return "; ".join(f"{line.name} from {line.y[0]:.4g} to {line.y[-1]:.4g}" for line in lines)
