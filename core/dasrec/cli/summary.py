"""What a finished run shows."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from dasrec.cli.generator_steps import full_name
from dasrec.cli.pipeline import Run
from dasrec.cli.two_stage import two_stage_figures, two_stage_table
from dasrec.core.artifacts import Manifest, code_version, load_manifest
from dasrec.core.corpus import Corpus, load_corpus
from dasrec.eval.report import EvalReport, load_report
from dasrec.eval.results import hardware
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
    two_stage = _two_stage(run)
    if two_stage:
        console.print(two_stage_table(two_stage))
    _show_users(run, corpus, console)
    _write_results(run, reports, two_stage)
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


def ranker_manifests(run: Run) -> dict[str, Manifest]:
    """Manifests of the CTR models that were trained on the SIDs asked for, by name."""
    if run.config.ranking is None or run.config.ranking.tokenizer not in run.tokenizers:
        return {}
    names = ("id_only", run.config.ranking.tokenizer)
    paths = {name: run.path("rankers", name) for name in names}
    return {n: load_manifest(p, "ranking_model") for n, p in paths.items() if p.exists()}


def _show_ranking(run: Run, console: Console) -> None:
    rows = [
        [name, part, *(number(metrics.get(key)) for key in RANKING_METRICS)]
        for name, manifest in ranker_manifests(run).items()
        for part, metrics in manifest.metrics["test"].items()
    ]
    if rows:
        header = ["CTR model", "items", *RANKING_METRICS]
        console.print(rich_table(header, rows, "Ranking, test impressions"))


def _two_stage(run: Run) -> dict[str, Any]:
    section = run.config.ranking
    if section is None or section.tokenizer not in run.tokenizers:
        return {}
    return two_stage_figures(run.out, section.tokenizer)


def _show_users(run: Run, corpus: Corpus, console: Console) -> None:
    made = [(name, variant) for name in run.tokenizers for variant in run.variants_of(name)]
    if not made:
        return
    from dasrec.cli.recommend import Recommender, recommendation_table

    tokenizer, variant = made[0]
    method = full_name(tokenizer, variant)
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
            exclude_seen=corpus.excludes_seen(retrieve.exclude_seen),
        )
        for table in recommendation_table(found):
            console.print(table)


def _write_results(run: Run, reports: list[EvalReport], two_stage: dict[str, Any]) -> None:
    figures: dict[str, Any] = {
        "dataset": run.config.name,
        "synthetic": run.config.synthetic is not None,
        "code": code_version(),
        "hardware": hardware(),
        "seconds": run.seconds,
        "methods": {report.method: report.splits for report in reports},
        "ranking": {name: manifest.metrics for name, manifest in ranker_manifests(run).items()},
        "two_stage": two_stage,
    }
    title = f"## {run.config.name}\n\n"
    _write(run.path("results.md"), title + markdown_report(reports))
    _write(run.path("results.json"), json.dumps(figures, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text)
    scratch.replace(path)
