"""`dasrec rank compare`: which semantic IDs help the CTR model, and how surely."""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from dasrec.cli.config import RankConfig, RunConfig
from dasrec.cli.pipeline import Run
from dasrec.cli.rank_tables import markdown_comparison, overall_table, pair_table, slice_table
from dasrec.core.artifacts import load_manifest
from dasrec.core.corpus import Corpus, load_corpus
from dasrec.core.semantic_ids import load_sids
from dasrec.eval.result_line import ComparisonLine, ResultLine
from dasrec.eval.results import append_comparisons, append_results, hardware
from dasrec.eval.tables import rich_table
from dasrec.ranking.compare import Arm, compare_report, plan_arms, plot_comparisons, run_arms

FOLDER = "rank_compare"
STAGES_BEFORE = ("prepare", "describe", "embed", "tokenize", "assign")
RECORDED = ("all", "unseen", "cold", "cold_vs_all", "warm", "head", "light_users", "heavy_users")
"""Slices whose figures are recorded; report.json holds all."""


def compare_rankers(
    config: RunConfig,
    out: Path,
    data: Path | None = None,
    arms: Collection[str] = (),
    seeds: Collection[int] = (),
) -> dict[str, Any]:
    """Train what is missing and write RUN/rank_compare/report.json, .md and .svg.

    Args:
        config: of the run; its section `ranking.compare` says what is compared.
        out: the run directory.
        data: raw data; with it the stages before are run where they are not up to date.
        arms: train only these; an arm's name without a mode stands for all its modes.
        seeds: train only these.

    Returns:
        The report, of everything that is finished.

    Raises:
        ValueError: no section `ranking`, an unknown arm or seed, or what `plan_arms` refuses.
    """
    section, planned = plan(config, out)
    chosen = chosen_arms(planned, arms)
    unknown = set(seeds) - set(section.compare.seeds)
    if unknown:
        raise ValueError(
            f"--seed {min(unknown)}: not in ranking.compare.seeds "
            f"({', '.join(map(str, section.compare.seeds))})"
        )
    if data is not None or config.synthetic is not None:
        skipped = {"describe"} if config.describe is None else set()
        Run(config, out, data, set(STAGES_BEFORE) - skipped).execute()
    corpus = load_corpus(out / "corpus")
    used = {arm.tokenizer for arm in chosen.values() if arm.tokenizer is not None}
    sids = {name: load_sids(out / "sids" / name, corpus.manifest) for name in sorted(used)}
    folder = out / FOLDER
    run_arms(chosen, list(seeds) or section.compare.seeds, corpus, sids, folder)
    report = {"dataset": config.name, "hardware": hardware()} | compare_report(
        planned,
        section.compare.seeds,
        corpus,
        sids_by_tokenizer(planned, out),
        folder,
        section.compare.num_samples,
    )
    _write(folder / "report.json", json.dumps(report, indent=2) + "\n")
    _write(folder / "report.md", markdown_comparison(report))
    plot_comparisons(report, folder / "report.svg")
    return report


def plan(config: RunConfig, out: Path) -> tuple[RankConfig, dict[str, Arm]]:
    """The section and its arms.

    Raises:
        ValueError: no section `ranking`, or what `plan_arms` refuses.
    """
    section = config.ranking
    if section is None:
        raise ValueError(f"{config.name}: the config has no section 'ranking'")
    names, vectors = list(config.tokenizers), out / "embeddings"
    return section, plan_arms(section.compare, section.train, section.tokenizer, names, vectors)


def sids_by_tokenizer(planned: Mapping[str, Arm], out: Path) -> dict[str, str]:
    """Fingerprints of the semantic IDs that a run has of the arms' tokenizers."""
    names = sorted({arm.tokenizer for arm in planned.values() if arm.tokenizer is not None})
    places = {name: out / "sids" / name for name in names}
    return {
        name: load_manifest(place, "semantic_ids").fingerprint
        for name, place in places.items()
        if place.exists()
    }


def chosen_arms(planned: Mapping[str, Arm], wanted: Collection[str]) -> dict[str, Arm]:
    """The arms asked for, all where none is.

    Raises:
        ValueError: an unknown arm.
    """
    for name in wanted:
        if not any(_means(name, arm) for arm in planned):
            raise ValueError(f"--arm {name}: not an arm; known: {', '.join(planned)}")
    return {
        arm: settings
        for arm, settings in planned.items()
        if not wanted or any(_means(name, arm) for name in wanted)
    }


def _means(name: str, arm: str) -> bool:
    return arm == name or arm.startswith(f"{name}.")


def show_comparison(report: Mapping[str, Any], console: Console) -> None:
    """Print the tables; report.md holds all comparisons."""
    pairs = pair_table(report, slices=("all", "cold"))
    for title, header, rows in (overall_table(report), slice_table(report), pairs):
        if rows:
            console.print(rich_table(header, rows, title))


def record_comparison(
    report: Mapping[str, Any], config: RunConfig, out: Path, command: str, folder: Path, topic: str
) -> None:
    """Append the figures and comparisons to `<topic>.jsonl` in `folder`.

    Args:
        report: of `compare_rankers`.
        config: of the run.
        out: the run directory.
        command: what to type to get the figures again.
        folder: docs/results.
        topic: names the file.
    """
    corpus = load_corpus(out / "corpus")
    common: dict[str, Any] = {
        "topic": topic,
        "dataset": config.name,
        "protocol": protocol_of(config, corpus),
        "split": "test",
        "hardware": report["hardware"],
        "command": command,
        "data_sha256": corpus.manifest.inputs["raw"],
        "code": report["code"],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    for name, arm in report["arms"].items():
        append_results(folder, *_result_lines(name, arm, common))
    append_comparisons(
        folder,
        *(_comparison_line(c, common) for c in report["comparisons"] if _is_recorded(c)),
    )


def protocol_of(config: RunConfig, corpus: Corpus) -> str:
    """How the rows were split, and whether they are the log's impressions or sampled."""
    split = config.prepare.split.method
    if corpus.impressions is not None:
        return f"{split}/impressions"
    assert config.ranking is not None
    negatives = config.ranking.train.negatives
    return f"{split}/{negatives.num_negatives}_negatives_by_{negatives.matching}"


def _result_lines(name: str, arm: Mapping[str, Any], common: Mapping[str, Any]) -> list[ResultLine]:
    method, _, mode = name.partition(".")
    made_from = json.dumps([arm["tokenizer"], arm["shuffle_sids"], arm["train"]], sort_keys=True)
    return [
        ResultLine(
            method=method,
            variant=mode,
            seed=seed,
            metrics={
                metric if part == "all" else f"{metric}[{part}]": summary["values"][place]
                for part, figures in arm["slices"].items()
                if part in RECORDED
                for metric, summary in figures.items()
                if isinstance(summary, dict)
                and None not in summary["values"]
                and len(summary["values"]) == len(arm["seeds"])
            },
            users=arm["slices"]["all"]["num_users"],
            seconds={"train": arm["train_seconds"][place]},
            config_sha256=hashlib.sha256(made_from.encode()).hexdigest(),
            **common,
        )
        for place, seed in enumerate(arm["seeds"])
    ]


def _is_recorded(compared: Mapping[str, Any]) -> bool:
    ranks = compared["metric"] in ("auc", "gauc") and compared["slice"] in RECORDED
    return bool(ranks or compared["slice"] == "all")


def _comparison_line(compared: Mapping[str, Any], common: Mapping[str, Any]) -> ComparisonLine:
    """The recorded difference is baseline - method: signs and ends change."""
    part = compared["slice"]
    return ComparisonLine(
        metric=compared["metric"] if part == "all" else f"{compared['metric']}[{part}]",
        baseline=compared["against"],
        method=compared["arm"],
        seeds=tuple(compared["seeds"]),
        users=compared["num_users"],
        mean_baseline=compared["mean_against"],
        mean_method=compared["mean"],
        difference=-compared["difference"],
        low=-compared["high"],
        high=-compared["low"],
        p_value=compared["p_value"],
        p_holm=compared["p_holm"],
        p_seeds=compared["p_seeds"],
        **common,
    )


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text)
    scratch.replace(path)
