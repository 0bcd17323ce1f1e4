"""What the systems of a report score, how surely, and which differences are real.

Shape letters: Q queries.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from dasrec.cli.report.document import Difference, Estimate, SlicePanel, SystemFigures
from dasrec.cli.report.runs import NamedRun
from dasrec.core.artifacts import MANIFEST, load_manifest
from dasrec.core.corpus import Int64s, Split
from dasrec.eval.paired import KEY, EvaluatedRun, named_queries
from dasrec.eval.ranking_metrics import RANKING_METRICS
from dasrec.eval.significance import bootstrap_interval, compare, holm, query_metric
from dasrec.eval.slices import SLICE_GROUPS, slice_masks

NUM_SAMPLES = 10_000
SLICE_SAMPLES = 2_000
"""Of an interval that is only drawn."""
SLICE = "slice."
GROUP_TITLES = {
    "ties": "Order within a day",
    "popularity": "Popularity of the target",
    "history_length": "Length of the history",
    "activity": "Activity of the user",
    "repeats": "First time or repeat",
    "time": "Time of the query",
}


class Cuts(NamedTuple):
    """The metrics of a report."""

    metrics: tuple[str, ...]
    main: str
    """That systems are compared by."""
    slice: str
    """That is shown by slice."""


class System(NamedTuple):
    """A method of a run and its queries of the chosen split."""

    label: str
    named: NamedRun
    method: str
    table: pl.DataFrame
    """See `dasrec.eval.paired.named_queries`."""

    @property
    def users(self) -> Int64s:
        """(Q,) numbers of the users."""
        return np.unique(self.table["user_id"].to_numpy(), return_inverse=True)[1].astype(np.int64)

    def mean(self, metric: str) -> float:
        """Mean over the queries."""
        return float(query_metric(self.table["rank"], metric).mean())


def systems_of(runs: Sequence[NamedRun], split: Split) -> list[System]:
    """All methods that were evaluated on the split, run by run."""
    return [
        System(
            method if len(runs) == 1 else f"{named.name}: {method}",
            named,
            method,
            named_queries(named.run, method, split),
        )
        for named in runs
        for method, report in named.run.reports.items()
        if split in report.splits
    ]


def cuts_of(systems: Sequence[System]) -> Cuts:
    """Recall and NDCG at the cut-offs that all systems were evaluated at, up to three of them.

    Raises:
        ValueError: no cut-off in common.
    """
    per_system = [set(s.named.run.reports[s.method].manifest.config["ks"]) for s in systems]
    common = sorted(set.intersection(*per_system))[:3]
    if not common:
        raise ValueError("report: the methods were evaluated at different cut-offs (eval.ks)")
    main = 10 if 10 in common else common[-1]
    return Cuts(
        tuple(f"{name}@{k}" for k in common for name in ("recall", "ndcg")),
        f"ndcg@{main}",
        f"recall@{main}",
    )


def grouped(systems: Sequence[System]) -> list[list[System]]:
    """Systems with the same queries together, in the order of their first ones."""
    groups: list[list[System]] = []
    for system in systems:
        key = system.table.select(KEY)
        for group in groups:
            if group[0].table.select(KEY).equals(key):
                group.append(system)
                break
        else:
            groups.append([system])
    return groups


def reference_of(group: Sequence[System], metric: str, baseline: str | None) -> tuple[System, str]:
    """The system that the others of its group are compared with, and why it is that one.

    Args:
        group: see `grouped`.
        metric: the main one.
        baseline: its method; None: the best on validation or, where a system was not evaluated on
            it, the first by name.
    """
    named = [system for system in group if system.method == baseline]
    if named:
        return named[0], "as asked for"
    on_valid = [_valid_mean(system.named.run, system.method, metric) for system in group]
    if None in on_valid:
        return min(group, key=lambda system: system.label), "the first by name"
    return group[int(np.argmax(np.array(on_valid)))], "the best on the validation queries"


def _valid_mean(run: EvaluatedRun, method: str, metric: str) -> float | None:
    return run.reports[method].splits.get("valid", {}).get("all", {}).get(metric)


def figures_of(
    group: Sequence[System], number: int, cuts: Cuts, split: Split, baseline: str | None
) -> list[SystemFigures]:
    """The figures of a group's systems, the best by the main metric first.

    Args:
        group: see `grouped`.
        number: of the group, from 1.
        cuts: the metrics.
        split: whose queries they are.
        baseline: see `reference_of`.
    """
    reference, why = reference_of(group, cuts.main, baseline)
    differences = _differences(group, reference, (cuts.main, cuts.slice))
    return [
        SystemFigures(
            label=system.label,
            run=system.named.name,
            method=system.method,
            group=number,
            chosen=why if system is reference and len(group) > 1 else "",
            queries=len(system.table),
            users=system.table["user_id"].n_unique(),
            estimates={metric: _estimate(system, metric, NUM_SAMPLES) for metric in cuts.metrics},
            differences=differences.get(system.label, {}),
            others=_others(system, cuts, split),
            slices=_slices(system, cuts.slice),
            provenance=_provenance(system),
        )
        for system in sorted(group, key=lambda system: -system.mean(cuts.main))
    ]


def _estimate(
    system: System, metric: str, num_samples: int, mask: pl.Series | None = None
) -> Estimate:
    values, users = query_metric(system.table["rank"], metric), system.users
    if mask is not None:
        chosen = mask.to_numpy()
        values, users = values[chosen], users[chosen]
    return Estimate(*bootstrap_interval(values, users, num_samples=num_samples))


def _differences(
    group: Sequence[System], reference: System, metrics: Sequence[str]
) -> dict[str, dict[str, Difference]]:
    """{label: {metric: ...}} of all systems but the reference."""
    others = [system for system in group if system is not reference]
    found: dict[str, dict[str, Difference]] = {system.label: {} for system in others}
    users = reference.users
    for metric in metrics:
        base = query_metric(reference.table["rank"], metric)
        tested = [
            compare(base, query_metric(system.table["rank"], metric), users) for system in others
        ]
        adjusted = holm([one.p_value for one in tested]).tolist() if tested else []
        for system, one, p in zip(others, tested, adjusted, strict=True):
            found[system.label][metric] = Difference(
                reference.label, one.difference, one.low, one.high, one.p_value, p
            )
    return found


def _others(system: System, cuts: Cuts, split: Split) -> dict[str, float]:
    """Figures at the main cut-off or without one that are no ranking metric."""
    k = cuts.main.partition("@")[2]
    slices = system.named.run.reports[system.method].splits[split]
    found = {
        name: float(value)
        for name, value in slices["all"].items()
        if name.partition("@")[0] not in RANKING_METRICS
        and name.partition("@")[2] in ("", k)
        and name not in ("queries", "users")
    }
    by_sid = slices.get("sid_level", {}).get(cuts.slice)
    return found if by_sid is None else found | {f"{cuts.slice}[sid_level]": by_sid}


def _slices(system: System, metric: str) -> dict[str, Estimate]:
    return {
        name.removeprefix(SLICE): _estimate(system, metric, SLICE_SAMPLES, system.table[name])
        for name in system.table.columns
        if name.startswith(SLICE) and system.table[name].any()
    }


def slice_panels(group: Sequence[System], number: int, split: Split) -> list[SlicePanel]:
    """The slices of a group's queries that any of its systems was evaluated on."""
    sizes = {
        name.removeprefix(SLICE): int(system.table[name].sum())
        for system in group
        for name in system.table.columns
        if name.startswith(SLICE) and system.table[name].any()
    }
    corpus, panels = group[0].named.run.corpus, []
    for kind in SLICE_GROUPS:
        names = slice_masks(corpus, corpus.queries(split), (kind,))
        of_kind = {name: sizes.pop(name) for name in names if name in sizes}
        if of_kind:
            title = GROUP_TITLES.get(kind, kind.replace("_", " ").capitalize())
            panels.append(SlicePanel(number, title, of_kind))
    return [*panels, SlicePanel(number, "Other slices", sizes)] if sizes else panels


def _provenance(system: System) -> dict[str, str]:
    """What the lists were made with, as their manifest tells; empty where they are gone."""
    path = system.named.path / "recommendations" / system.method
    if not (path / MANIFEST).exists():
        return {}
    manifest = load_manifest(path, "recommendations")
    settings = {
        key: str(value)
        for key, value in manifest.config.items()
        if isinstance(value, str | int | float | bool)
    }
    return settings | {"lists": manifest.fingerprint, **manifest.inputs, "code": manifest.code}
