"""CTR figures of a run: its rankers, and the comparison that `dasrec rank compare` wrote."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dasrec.cli.rank_compare import FOLDER
from dasrec.cli.rank_tables import overall_table, slice_table
from dasrec.cli.report.document import Effect, Estimate, RankingFigures
from dasrec.cli.report.runs import NamedRun
from dasrec.core.artifacts import load_manifest

METRICS = ("auc", "gauc", "logloss", "ece")


def ranking_of(runs: Sequence[NamedRun]) -> list[RankingFigures]:
    """CTR figures of the runs that have them."""
    several = len(runs) > 1
    return [
        replace(figures, title=f"{named.name}: {figures.title}") if several else figures
        for named in runs
        for figures in (*_rankers(named), *_comparison(named))
    ]


def _rankers(named: NamedRun) -> Iterator[RankingFigures]:
    rows: list[tuple[str | float | None, ...]] = []
    for path in named.artifacts("rankers"):
        test = load_manifest(path, "ranking_model").metrics["test"]
        rows += [
            (path.name, part, *(metrics.get(name) for name in METRICS))
            for part, metrics in test.items()
        ]
    if rows:
        header = ("CTR model", "items", *METRICS)
        yield RankingFigures("CTR models, test impressions", header, tuple(rows))


def _comparison(named: NamedRun) -> Iterator[RankingFigures]:
    path = named.path / FOLDER / "report.json"
    if not path.exists():
        return
    report = json.loads(path.read_text())
    effects = tuple(_effect(c) for c in report["comparisons"] if _is_shown(c))
    for (title, header, rows), shown in (
        (overall_table(report), effects),
        (slice_table(report), ()),
    ):
        cells = tuple(tuple(row) for row in rows)
        yield RankingFigures(title, tuple(header), cells, shown)


def _is_shown(compared: Mapping[str, Any]) -> bool:
    whole = compared["slice"] == "all" and compared["metric"] == "gauc"
    return bool(compared["primary"] or whole)


def _effect(compared: Mapping[str, Any]) -> Effect:
    part = "" if compared["slice"] == "all" else f", {compared['slice']}"
    return Effect(
        f"{compared['arm']} - {compared['against']}: {compared['metric'].upper()}{part}",
        Estimate(compared["difference"], compared["low"], compared["high"]),
        compared["p_holm"],
    )
