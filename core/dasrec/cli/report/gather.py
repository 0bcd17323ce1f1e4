"""Everything a report says, read from the artifacts of its runs."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from dasrec.cli.generator_steps import base_method, split_name
from dasrec.cli.report.curves import curves_of
from dasrec.cli.report.document import Document, SystemFigures
from dasrec.cli.report.examples import examples_of
from dasrec.cli.report.ranking import ranking_of
from dasrec.cli.report.runs import differing, open_runs, run_facts
from dasrec.cli.report.sids import sids_of
from dasrec.cli.report.systems import (
    System,
    cuts_of,
    figures_of,
    grouped,
    slice_panels,
    systems_of,
)
from dasrec.core.artifacts import code_version
from dasrec.core.corpus import Split

MAX_PLOTTED = 6
"""Systems of a group that can be told apart in one plot."""
MAX_LISTS = 3
"""Systems whose lists are shown beside each other."""


def report_document(
    paths: Sequence[Path],
    *,
    split: Split = "test",
    methods: Sequence[str] | None = None,
    tokenizers: Collection[str] | None = None,
    baseline: str | None = None,
) -> Document:
    """Read runs into a report.

    Args:
        paths: run directories.
        split: whose queries count.
        methods: only these methods; None = all.
        tokenizers: only the SIDs of these; None = those that `methods` use.
        baseline: the method that the others are compared with; None = the best on validation.

    Raises:
        FileNotFoundError: a run without corpus.
        ValueError: an unknown method or baseline, or artifacts that do not belong together.
    """
    runs = open_runs(paths, methods)
    systems = systems_of(runs, split)
    if baseline is not None and baseline not in {system.method for system in systems}:
        raise ValueError(f"--baseline {baseline}: no run has a report of it on {split}")
    facts = [run_facts(named) for named in runs]
    if tokenizers is None and methods is not None:
        tokenizers = {split_name(base_method(method))[0] for method in methods}
    evaluated = _evaluated(systems, split, baseline) if systems else {}
    return Document(
        title=", ".join(named.name for named in runs),
        code=code_version(),
        split=split,
        runs=tuple(facts),
        differing=differing(facts),
        sids=tuple(sids_of(runs, tokenizers)),
        curves=tuple(curves_of(runs)),
        ranking=tuple(ranking_of(runs)),
        **evaluated,
    )


def _evaluated(systems: Sequence[System], split: Split, baseline: str | None) -> dict[str, Any]:
    """The fields of the document that are about lists."""
    cuts, groups = cuts_of(systems), grouped(systems)
    figures, panels, plotted, examples = [], [], [], []
    for number, group in enumerate(groups, 1):
        of_group = figures_of(group, number, cuts, split, baseline)
        figures += of_group
        plotted += _first(of_group, MAX_PLOTTED)
        panels += slice_panels(group, number, split)
        named = {system.label: system for system in group}
        shown = [named[label] for label in _first(_for_examples(of_group), MAX_LISTS)]
        examples += examples_of(shown, int(cuts.main.partition("@")[2]))
    return {
        "metric": cuts.main,
        "slice_metric": cuts.slice,
        "metrics": cuts.metrics,
        "systems": tuple(figures),
        "plotted": tuple(plotted),
        "slices": tuple(panels),
        "examples": tuple(examples),
    }


def _first(figures: Sequence[SystemFigures], number: int) -> list[str]:
    """Labels of the reference and of the best others of a group, the reference first."""
    return [one.label for one in sorted(figures, key=lambda one: not one.chosen)][:number]


def _for_examples(figures: Sequence[SystemFigures]) -> list[SystemFigures]:
    """One system, the reference if it can be, of those with the same lists; with SIDs first."""
    by_lists: dict[str, SystemFigures] = {}
    for one in figures:
        lists = one.provenance.get("lists", one.label)
        if one.chosen or lists not in by_lists:
            by_lists[lists] = one
    return sorted(by_lists.values(), key=lambda one: "semantic_ids" not in one.provenance)
