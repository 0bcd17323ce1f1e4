"""The tables of a report, shared by the page and the Markdown."""

from typing import NamedTuple

from dasrec.cli.report.document import Document, SystemFigures
from dasrec.cli.report.runs import NO_VALUE
from dasrec.cli.report.words import (
    Meaning,
    duration,
    figure_meaning,
    metric_label,
    slice_label,
)
from dasrec.eval.tables import number
from dasrec.tokenizer.report import glossary
from dasrec.tokenizer.report.markdown import number as four_digits

Cell = str | float | None
MOST_STEPS = 12
USERS = "Users: "
"""Begins the sections of the glossary that are about users."""
SUMMARY = {
    "collision_rate_before", "collision_rate", "test_targets_colliding", "largest_group", "usage",
    "perplexity", "category_purity", "popularity_r2", "alignment_recall",
}  # fmt: skip


class Table(NamedTuple):
    """Header and rows."""

    header: list[str]
    rows: list[list[Cell]]


class Group(NamedTuple):
    """Systems that answered the same queries."""

    number: int
    """From 1."""
    name: str
    """Of their runs."""
    systems: list[SystemFigures]
    best: dict[str, set[str]]
    """By metric, the labels with the highest figure as it is shown."""
    reference: str
    """Label; "" for a group of one."""
    plotted: list[str]
    """Labels of the systems in plots, in the order of their series."""


class Tile(NamedTuple):
    """One figure of the overview."""

    name: str
    value: str
    note: str


class SidRow(NamedTuple):
    """A figure of every set of SIDs."""

    label: str
    meaning: str
    values: list[tuple[float | None, bool]]
    """(figure, whether it is the best of several)."""


class ProtocolRow(NamedTuple):
    """A part of the protocol or of the provenance, by run."""

    part: str
    values: tuple[str, ...]
    differs: bool | None
    """None where runs may differ."""


class Seconds(NamedTuple):
    """The longest steps of a run."""

    name: str
    rows: list[tuple[str, float]]
    total: float
    largest: float
    hidden: int


class Others(NamedTuple):
    """Figures of the lists beyond accuracy."""

    meanings: list[Meaning]
    rows: list[tuple[str, list[float | None]]]


def groups(doc: Document) -> list[Group]:
    """The systems, group by group."""
    found: dict[int, list[SystemFigures]] = {}
    for system in doc.systems:
        found.setdefault(system.group, []).append(system)
    made = []
    for number_, systems in found.items():
        best = {}
        for metric in doc.metrics:
            shown = {s.label: number(s.estimates[metric].mean) for s in systems}
            highest = max(systems, key=lambda s: s.estimates[metric].mean).label
            several = len(systems) > 1
            best[metric] = {x for x in shown if shown[x] == shown[highest] and several}
        reference = next((s.label for s in systems if s.chosen), "")
        name = ", ".join(dict.fromkeys(s.run for s in systems))
        plotted = [label for label in doc.plotted if label in {s.label for s in systems}]
        made.append(Group(number_, name, systems, best, reference, plotted))
    return made


def choice(doc: Document) -> str:
    """How the references were chosen, in words."""
    return "; ".join(f"{s.label}, {s.chosen}" for s in doc.systems if s.chosen)


def deciding(doc: Document) -> str:
    """The systems that decide which examples are drawn."""
    return ", ".join(dict.fromkeys(one.lists[0].system for one in doc.examples))


def data_lines(doc: Document) -> list[str]:
    """What the runs are about, each data set once."""
    lines = [
        f"{run.dataset or run.name}: {run.users:,} users, {run.items:,} items, "
        f"{run.interactions:,} interactions"
        for run in doc.runs
    ]
    return list(dict.fromkeys(lines))


def tiles(doc: Document) -> list[Tile]:
    """The overview."""
    found = []
    for group in groups(doc)[:2]:
        top = group.systems[0]
        value = top.estimates[doc.metric]
        note = f"{top.label}, 95% interval {number(value.low)} to {number(value.high)}"
        found.append(
            Tile(f"Highest {metric_label(doc.metric)}, {doc.split}", number(value.mean), note)
        )
    if doc.systems:
        methods = f"{len(doc.systems)} method" + "s" * (len(doc.systems) > 1)
        queries = max(system.queries for system in doc.systems)
        found.append(Tile("Queries", f"{queries:,}", f"of {doc.split}, {methods}"))
    if doc.sids:
        first = doc.sids[0]
        shared = first.figures.get("item/collision_rate_before")
        note = f"{first.label}, learned codes; policy: {first.policy.replace('_', ' ')}"
        if shared is not None:
            found.append(Tile("Items in collisions", f"{100 * shared:.1f}%", note))
    total = sum(sum(run.seconds.values()) for run in doc.runs)
    if total:
        known = (run.provenance["hardware"] for run in doc.runs)
        hardware = ", ".join(dict.fromkeys(name for name in known if name != NO_VALUE))
        found.append(Tile("Time of all steps", duration(total), hardware))
    return found


def others(doc: Document) -> Others | None:
    """Coverage, popularity, faults; None where there are no such figures."""
    names = list(dict.fromkeys(name for system in doc.systems for name in system.others))
    if not names:
        return None
    rows = [(s.label, [s.others.get(name) for name in names]) for s in doc.systems]
    return Others([figure_meaning(name) for name in names], rows)


def slices(doc: Document, group: Group) -> Table:
    """A row per slice with its queries, a column per system of a group."""
    header = ["slice", "queries", *(system.label for system in group.systems)]
    rows: list[list[Cell]] = []
    for panel in doc.slices:
        for name, queries in panel.queries.items() if panel.group == group.number else ():
            found = [system.slices.get(name) for system in group.systems]
            means = [None if one is None else one.mean for one in found]
            rows.append([f"{panel.title}: {slice_label(name)}", f"{queries:,}", *means])
    return Table(header, rows)


def sid_summary(doc: Document) -> Table:
    """The figures of items that tell most; those of several levels or prefixes in one cell."""
    header = ["SIDs", "Levels"]
    columns = [[" x ".join(map(str, one.level_sizes)) for one in doc.sids]]
    for title, lines in _arranged(doc):
        if title.startswith(USERS):
            continue
        for figure in dict.fromkeys(row.figure for row in lines):
            names = [row.name for row in lines if row.figure is figure]
            if figure.name in SUMMARY:
                header.append(figure.label)
                columns.append([_together(one.figures, names) for one in doc.sids])
    rows: list[list[Cell]] = [
        [one.label, *(column[place] for column in columns)] for place, one in enumerate(doc.sids)
    ]
    return Table(header, rows)


def _together(figures: dict[str, float], names: list[str]) -> str:
    found = [figures[name] for name in names if name in figures]
    return " / ".join(map(four_digits, found)) or "-"


def sid_rows(doc: Document) -> list[SidRow]:
    """All figures of SIDs in the order of the glossary."""
    rows, meant = [], None
    for title, lines in _arranged(doc):
        side = USERS if title.startswith(USERS) else ""
        for row in lines:
            label = side + row.figure.label + (f", {row.part}" if row.part else "")
            meaning = row.figure.meaning if row.figure is not meant else ""
            meant = row.figure
            rows.append(SidRow(label, meaning, _marked(row, doc)))
    return rows


def _arranged(doc: Document) -> list[tuple[str, list[glossary.Row]]]:
    return list(glossary.arrange(dict.fromkeys(name for one in doc.sids for name in one.figures)))


def _marked(row: glossary.Row, doc: Document) -> list[tuple[float | None, bool]]:
    values = [one.figures.get(row.name) for one in doc.sids]
    given = [value for value in values if value is not None]
    best = None
    if row.figure.better and len({four_digits(value) for value in given}) > 1:
        best = four_digits(max(given) if row.figure.better > 0 else min(given))
    return [(value, four_digits(value) == best) for value in values]


def protocol(doc: Document) -> list[ProtocolRow]:
    """What must be equal between runs, then what need not."""
    rows = []
    for field in ("protocol", "provenance"):
        found = [getattr(run, field) for run in doc.runs]
        for part in dict.fromkeys(part for values in found for part in values):
            differs = part in doc.differing if field == "protocol" else None
            rows.append(ProtocolRow(part, tuple(v.get(part, "-") for v in found), differs))
    return rows


def lists(doc: Document) -> Table:
    """Settings and fingerprints of every system's lists."""
    kept = [system for system in doc.systems if system.provenance]
    names = list(dict.fromkeys(name for system in kept for name in system.provenance))
    header = ["method", *(name.replace("_", " ") for name in names)]
    return Table(header, [[s.label, *(s.provenance.get(n, "-") for n in names)] for s in kept])


def seconds(doc: Document) -> list[Seconds]:
    """The longest steps of every run that recorded its seconds."""
    found = []
    for run in doc.runs:
        ordered = sorted(run.seconds.items(), key=lambda item: -item[1])
        if ordered:
            shown = ordered[:MOST_STEPS]
            total = sum(run.seconds.values())
            found.append(Seconds(run.name, shown, total, shown[0][1], len(ordered) - len(shown)))
    return found
