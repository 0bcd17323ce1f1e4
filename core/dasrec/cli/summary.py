"""What a finished run shows, and the figures that it records."""

import hashlib
import json
import math
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from dasrec.cli.generator_steps import full_name, split_name
from dasrec.cli.pipeline import Run
from dasrec.core.artifacts import Manifest, code_version, load_manifest
from dasrec.core.corpus import Corpus, load_corpus
from dasrec.eval.report import EvalReport, load_report
from dasrec.eval.results import (
    ResultLine,
    append_results,
    hardware,
    results_of_report,
    typed,
)
from dasrec.eval.tables import markdown_report, metric_rows, number, rich_table

SHOWN_USERS = 2
RANKING_METRICS = ("auc", "gauc", "logloss")


def show_summary(run: Run, console: Console) -> None:
    """Print SID quality, metrics, ranking figures and recommendations; write results.md/json."""
    reports = [load_report(run.path("reports", name)) for name in run.methods]
    corpus = load_corpus(run.path("corpus"))
    _show_sids(run, console)
    for split in ("valid", "test"):
        header, rows = metric_rows(reports, split)
        if rows:
            console.print(rich_table(header, rows, f"{run.config.name}, {split}, full catalogue"))
    _show_ranking(run, console)
    _show_users(run, corpus, console)
    _write_results(run, reports)
    if run.config.synthetic is not None:
        console.print("All figures above are of SYNTHETIC data: they show that the system works.")
    console.print(f"Results: {run.path('results.md')} and {run.path('results.json')}")


def _show_sids(run: Run, console: Console) -> None:
    rows = []
    for name in run.tokenizers:
        metrics = load_manifest(run.path("sids", name), "semantic_ids").metrics
        usage = [
            f"{value:.0f}" for key, value in metrics.items() if key.startswith("item/perplexity")
        ]
        shared = (metrics["item/collision_rate_before"], metrics["item/collision_rate"])
        largest = metrics["item/largest_group"]
        rows.append([name, " / ".join(usage), *map(number, shared), number(largest)])
    if rows:
        header = ["SIDs", "perplexity per level", "collisions before", "after", "largest group"]
        console.print(rich_table(header, rows, "Semantic IDs of items"))


def _rankers(run: Run) -> dict[str, Manifest]:
    if run.config.ranking is None or run.config.ranking.tokenizer not in run.tokenizers:
        return {}
    names = ("id_only", run.config.ranking.tokenizer)
    paths = {name: run.path("rankers", name) for name in names}
    return {n: load_manifest(p, "ranking_model") for n, p in paths.items() if p.exists()}


def _show_ranking(run: Run, console: Console) -> None:
    rows = [
        [name, part, *(number(metrics.get(key)) for key in RANKING_METRICS)]
        for name, manifest in _rankers(run).items()
        for part, metrics in manifest.metrics["test"].items()
    ]
    if rows:
        header = ["CTR model", "items", *RANKING_METRICS]
        console.print(rich_table(header, rows, "Ranking, test impressions"))


def _show_users(run: Run, corpus: Corpus, console: Console) -> None:
    if not run.variants or not run.tokenizers:
        return
    from dasrec.cli.recommend import Recommender, recommendation_table

    variant = run.variants[0]
    method = full_name(next(iter(run.tokenizers)), variant)
    retrieve = run.config.all_generators[variant].retrieve
    recommender = Recommender(run.out, method, run.generator_path(method))
    queries = corpus.queries("test")
    users, first = np.unique(corpus.user_idx[queries], return_index=True)
    for user, row in zip(users[:SHOWN_USERS].tolist(), queries[first], strict=False):
        past = corpus.item_idx[corpus.user_start[user] : row]
        history = corpus.items["item_id"][past.astype(int)].to_list()
        found = recommender.recommend(
            corpus.users["user_id"][user],
            history,
            k=5,
            num_beams=retrieve.num_beams,
            exclude_seen=retrieve.exclude_seen != "never",
        )
        for table in recommendation_table(found):
            console.print(table)


def _write_results(run: Run, reports: list[EvalReport]) -> None:
    figures: dict[str, Any] = {
        "dataset": run.config.name,
        "synthetic": run.config.synthetic is not None,
        "code": code_version(),
        "hardware": hardware(),
        "seconds": run.seconds,
        "methods": {report.method: report.splits for report in reports},
        "ranking": {name: manifest.metrics for name, manifest in _rankers(run).items()},
    }
    title = f"## {run.config.name}\n\n"
    _write(run.path("results.md"), title + markdown_report(reports))
    _write(run.path("results.json"), json.dumps(figures, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text)
    scratch.replace(path)


SECONDS_OF = {
    "tokenizers": "tokenize",
    "sids": "assign",
    "models": "train",
    "bases": "train",
    "generators": "train",
    "aligned": "train",
    "recommendations": "retrieve",
    "rankers": "rank",
    "reports": "evaluate",
}
"""What the recorded seconds of a folder's artifacts are called; equal names are added."""


def record_results(
    run: Run,
    folder: Path,
    config_path: Path,
    overrides: list[str],
    topic: str = "ladder",
    variant: str = "",
) -> None:
    """Append the figures of the run's methods to `<topic>.jsonl` and `ranking.jsonl` in `folder`.

    A line holds the metrics of the lists, all figures of the semantic IDs and the seconds.
    """
    corpus = load_manifest(run.path("corpus"), "corpus")
    data = [] if run.data_dir is None else ["--data", run.data_dir.resolve().name]
    chosen = [part for name in run.tokenizers for part in ("--method", name)]
    if run.variants != list(run.config.all_generators):
        chosen += [part for name in run.variants for part in ("--generator", name)]
    command = [
        "dasrec",
        "run",
        str(config_path),
        *overrides,
        *data,
        *(chosen if run.restricted else []),
    ]
    common: dict[str, Any] = {
        "dataset": run.config.name,
        "command": typed(command),
        "data_sha256": corpus.inputs["raw"],
        "seed": run.config.seed,
    }
    strategy = run.config.prepare.split.method
    for name in run.methods:
        lines = results_of_report(
            run.path("reports", name),
            topic=topic,
            protocol=f"{strategy}/full/item",
            seconds=_seconds_of(run, name),
            more=_sid_figures(run, name),
            config_sha256=_config_sha256(run, name),
            variant=variant or split_name(name)[1],
            **common,
        )
        lines = [line.model_copy(update={"method": split_name(name)[0]}) for line in lines]
        append_results(folder, *lines)
    for name, manifest in _rankers(run).items():
        figures = common | {"config_sha256": _config_sha256(run, name), "variant": variant}
        append_results(folder, *_ranking_lines(name, manifest, strategy, figures))
    sys.stderr.write(f"recorded in {folder}\n")


def _config_sha256(run: Run, method: str) -> str:
    """Digest of the config without the other tokenizers and generators: what made `method`."""
    config = run.config.as_json()
    own, variant = split_name(method.removesuffix("_ranked"))
    config["tokenizers"] = {k: v for k, v in config["tokenizers"].items() if k == own}
    kept: list[str | None] = [variant] if variant else []
    while kept and (start := config["generators"].get(kept[-1], {}).get("after")):
        kept.append(start)
    config["generators"] = {k: v for k, v in config["generators"].items() if k in kept}
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _seconds_of(run: Run, method: str) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for title, value in run.seconds.items():
        folder, _, name = title.partition("/")
        if name == method:
            stage = SECONDS_OF[folder]
            seconds[stage] = round(seconds.get(stage, 0) + value, 1)
    return seconds


def _sid_figures(run: Run, name: str) -> dict[str, float]:
    """Figures of the SIDs by recorded name: `item/x` is x, `user/x` is user_x."""
    path = run.path("sids", split_name(name)[0])
    if not path.exists():
        return {}
    return {
        key.removeprefix("item/").replace("/", "_"): float(value)
        for key, value in load_manifest(path, "semantic_ids").metrics.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def _ranking_lines(
    name: str, manifest: Manifest, strategy: str, common: Mapping[str, Any]
) -> list[ResultLine]:
    splits: dict[str, Any] = {"valid": {"all": manifest.metrics["valid"]}}
    splits["test"] = manifest.metrics["test"]
    return [
        ResultLine(
            topic="ranking",
            protocol=f"{strategy}/impressions",
            method=name,
            split="test" if split == "test" else "valid",
            metrics={
                key if part == "all" else f"{key}[{part}]": float(value)
                for part, metrics in parts.items()
                for key, value in metrics.items()
                if isinstance(value, int | float) and value == value
            },
            users=int(parts["all"].get("num_users", 0)),
            seconds={"train": float(manifest.metrics["train_seconds"])},
            hardware=hardware(),
            code=code_version(),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            **common,
        )
        for split, parts in splits.items()
    ]
