"""One method against the others on the same queries, pooled over runs of different seeds.

A seed numbers users and items anew, so queries of different runs are matched by what the log calls
them: user_id and place in the user's sequence. Per query and method the metric is first averaged
over the seeds; users are then drawn as in `dasrec.eval.significance`.

Shape letters: Q queries.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from dasrec.core.corpus import Corpus, Int64s, Split, load_corpus
from dasrec.eval.protocol import check_same
from dasrec.eval.ranking_metrics import Floats
from dasrec.eval.report import EvalReport, load_report
from dasrec.eval.significance import Comparison, compare, holm, query_values

KEY = ["user_id", "place", "item_id"]


@dataclass(frozen=True)
class EvaluatedRun:
    """A run directory's corpus and the reports of its methods."""

    path: Path
    corpus: Corpus
    reports: dict[str, EvalReport]

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.corpus.manifest.seed


class PairedResult(NamedTuple):
    """A method against the baseline, by one metric."""

    method: str
    metric: str
    seeds: list[int]
    """Of the runs that hold both, ascending."""
    comparison: Comparison
    """a = the method, b = the baseline: the difference is baseline - method."""
    p_holm: float
    """p-value adjusted over the methods compared by this metric (Holm, 1979)."""


def load_runs(paths: Sequence[str | Path]) -> list[EvaluatedRun]:
    """Open run directories that differ in nothing but the seed and the methods.

    Raises:
        FileNotFoundError: a run without corpus.
        ValueError: no reports, reports of another corpus, one seed twice, or corpora made from
            other data or with another config.
    """
    runs = [load_run(path) for path in paths]
    for run in runs:
        if not run.reports:
            raise ValueError(f"compare: {run.path} holds no reports; run `dasrec evaluate` first")
    first = runs[0]
    for run in runs[1:]:
        one, two = first.corpus.manifest, run.corpus.manifest
        if (one.inputs, one.config) != (two.inputs, two.config):
            raise ValueError(
                f"compare: {first.path} and {run.path} hold different corpora (other raw data or "
                "another prepare section); compare runs that differ in their seed only"
            )
    seeds = [run.seed for run in runs]
    for seed in seeds:
        same = [str(run.path) for run in runs if run.seed == seed]
        if len(same) > 1:
            raise ValueError(f"compare: {' and '.join(same)} are runs of one seed ({seed})")
    return sorted(runs, key=lambda run: run.seed)


def load_run(path: str | Path, methods: Collection[str] | None = None) -> EvaluatedRun:
    """Open a run directory; one without reports has an empty dict of them.

    Args:
        path: the run directory.
        methods: only the reports of these that there are; None = all.

    Raises:
        FileNotFoundError: a run without corpus.
        ValueError: reports of another corpus.
    """
    path = Path(path)
    corpus = load_corpus(path / "corpus")
    folders = sorted(p for p in (path / "reports").glob("*") if not p.name.startswith("."))
    wanted = [folder for folder in folders if methods is None or folder.name in methods]
    reports = {folder.name: load_report(folder) for folder in wanted}
    for name, report in reports.items():
        if report.manifest.inputs["corpus"] != corpus.manifest.fingerprint:
            raise ValueError(
                f"{path}/reports/{name} is about another corpus than {path}/corpus; "
                "evaluate it again"
            )
    return EvaluatedRun(path, corpus, reports)


def compare_with(
    baseline: str,
    runs: Sequence[EvaluatedRun],
    metrics: Sequence[str],
    *,
    split: Split = "test",
    allow: Collection[str] = (),
    num_samples: int = 10_000,
    seed: int = 0,
) -> list[PairedResult]:
    """Compare every other method with the baseline, on the runs that hold both.

    Args:
        baseline: a method.
        runs: see `load_runs`.
        metrics: e.g. ["ndcg@10"].
        split: "valid" or "test".
        allow: fields of the protocol that may differ, see `dasrec.eval.protocol.check_same`.
        num_samples: bootstrap samples and random swaps.
        seed: of both.

    Raises:
        ValueError: no run holds the baseline, nothing to compare it with, an unknown metric, or
            reports of unlike protocols or of different queries.
    """
    runs = [run for run in runs if baseline in run.reports]
    if not runs:
        raise ValueError(f"compare: no run has a report of '{baseline}'")
    others = list(dict.fromkeys(name for run in runs for name in run.reports if name != baseline))
    if not others:
        raise ValueError(f"compare: there is no other method than '{baseline}' in the runs")
    for method in others:
        both = [run for run in runs if method in run.reports]
        names = [(run, name) for run in both for name in (baseline, method)]
        check_same({f"{run.path}/reports/{m}": run.reports[m].protocol for run, m in names}, allow)
    results = []
    for metric in metrics:
        found = []
        for method in others:
            both = [run for run in runs if method in run.reports]
            pooled = _pooled(both, (method, baseline), metric, split)
            tested = compare(*pooled, num_samples=num_samples, seed=seed)
            found.append((method, [run.seed for run in both], tested))
        adjusted = holm([tested.p_value for *_, tested in found]).tolist()
        results += [
            PairedResult(method, metric, seeds, tested, p)
            for (method, seeds, tested), p in zip(found, adjusted, strict=True)
        ]
    return results


def _pooled(
    runs: Sequence[EvaluatedRun], methods: tuple[str, str], metric: str, split: Split
) -> tuple[Floats, Floats, Int64s]:
    """Means over the runs of one method and of the other, and the numbers of the users, of the
    queries that have a value by both."""
    key = named_queries(runs[0], methods[0], split).select(KEY)
    values: dict[str, list[Floats]] = {method: [] for method in methods}
    for run in runs:
        for method in methods:
            table = named_queries(run, method, split)
            if not key.equals(table.select(KEY)):
                raise ValueError(
                    f"compare: {run.path}/reports/{method} holds other queries of {split} than "
                    f"{runs[0].path}/reports/{methods[0]}; retrieve and evaluate both alike"
                )
            values[method].append(query_values(table, metric))
    one, two = (np.mean(values[method], axis=0) for method in methods)
    users = np.unique(key["user_id"].to_numpy(), return_inverse=True)[1].astype(np.int64)
    both = np.isfinite(one) & np.isfinite(two)  # a list without items is of no diversity
    return one[both], two[both], users[both]


def named_queries(run: EvaluatedRun, method: str, split: Split) -> pl.DataFrame:
    """The queries of a report by external names, in an order that no seed changes.

    Args:
        run: see `load_run`.
        method: one that the run has a report of.
        split: "valid" or "test".

    Returns:
        A row a query: the columns `KEY` and those of the report, see `EvalReport.per_query`.

    Raises:
        ValueError: the report holds no query of the split.
    """
    table = run.reports[method].per_query.filter(pl.col("split") == split)
    if table.is_empty():
        raise ValueError(f"{run.path}/reports/{method} holds no query of {split}")
    corpus, query = run.corpus, table["query"].to_numpy()
    user = corpus.user_idx[query]
    return pl.DataFrame(
        {
            "user_id": corpus.users["user_id"][user],
            "place": query - corpus.user_start[user],
            "item_id": corpus.items["item_id"][corpus.item_idx[query]],
            **{name: table[name] for name in table.columns if name not in ("user_idx", "split")},
        }
    ).sort("user_id", "place")
