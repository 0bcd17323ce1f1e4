"""`dasrec compare`: every method of the run directories against one of them, on equal queries."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from dasrec.core.artifacts import code_version
from dasrec.core.corpus import Split
from dasrec.eval.paired import EvaluatedRun, PairedResult
from dasrec.eval.result_line import ComparisonLine
from dasrec.eval.results import append_comparisons, hardware, typed
from dasrec.eval.tables import number, rich_table


def comparison_table(baseline: str, results: Sequence[PairedResult]) -> Table:
    """The comparisons for the terminal."""
    header = ["method", "metric", "seeds", "users", baseline, "method's", "difference"]
    header += ["low", "high", "p", "p (Holm)"]
    rows = [
        [
            result.method,
            result.metric,
            str(len(result.seeds)),
            str(found.num_users),
            *map(number, (found.mean_b, found.mean_a)),
            *(f"{value:+.4f}" for value in (found.difference, found.low, found.high)),
            *(f"{p:.2g}" for p in (found.p_value, result.p_holm)),
        ]
        for result in results
        for found in [result.comparison]
    ]
    return rich_table(header, rows, f"{baseline} minus the method, 95% interval over users")


def record_comparisons(
    folder: Path,
    topic: str,
    runs: Sequence[EvaluatedRun],
    baseline: str,
    split: Split,
    results: Sequence[PairedResult],
    allow: Sequence[str] = (),
) -> None:
    """Append the comparisons to `comparisons/<topic>.jsonl` in `folder`.

    Raises:
        ValueError: a run directory that does not say which data set it is about.
    """
    corpus = runs[0].corpus.manifest
    metrics = list(dict.fromkeys(result.metric for result in results))
    command = ["dasrec", "compare", *(run.path.name for run in runs), "--baseline", baseline]
    command += [part for metric in metrics for part in ("--metric", metric)] + ["--split", split]
    command += [part for field in allow for part in ("--allow", field)]
    dataset = _dataset(runs[0].path)
    lines = [
        ComparisonLine(
            topic=topic,
            dataset=dataset,
            protocol=f"{corpus.config['split']['method']}/full/item",
            split=split,
            metric=result.metric,
            baseline=baseline,
            method=result.method,
            seeds=tuple(result.seeds),
            users=result.comparison.num_users,
            mean_baseline=result.comparison.mean_b,
            mean_method=result.comparison.mean_a,
            difference=result.comparison.difference,
            low=result.comparison.low,
            high=result.comparison.high,
            p_value=result.comparison.p_value,
            p_holm=result.p_holm,
            hardware=hardware(),
            command=typed(command),
            data_sha256=corpus.inputs["raw"],
            code=code_version(),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        for result in results
    ]
    append_comparisons(folder, *lines)


def _dataset(run: Path) -> str:
    try:
        return str(json.loads((run / "results.json").read_text())["dataset"])
    except FileNotFoundError:
        raise ValueError(
            f"compare: {run} has no results.json, which names the data set; finish it with "
            "`dasrec run`"
        ) from None
