"""The figures of a finished run as lines of the recorded results."""

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dasrec.cli.generator_config import MAIN, chain_of
from dasrec.cli.generator_steps import FOLDERS, RANKED, base_method, full_name, split_name
from dasrec.cli.pipeline import Run
from dasrec.cli.summary import ranker_manifests
from dasrec.core.artifacts import Manifest, code_version, load_manifest
from dasrec.eval.results import ResultLine, append_results, hardware, results_of_report, typed

SECONDS_OF = {
    "tokenizers": "tokenize",
    "sids": "assign",
    "models": "train",
    "bases": "train",
    "generators": "train",
    "aligned": "train",
    "item_heads": "train",
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
    for name, manifest in ranker_manifests(run).items():
        figures = common | {"config_sha256": _config_sha256(run, name), "variant": variant}
        append_results(folder, *_ranking_lines(name, manifest, strategy, figures))
    sys.stderr.write(f"recorded in {folder}\n")


def _config_sha256(run: Run, method: str) -> str:
    """Digest of the config without the other tokenizers and generators: what made `method`."""
    config = run.config.as_json()
    config.pop("sweep")  # no run reads it
    if method in run.config.fusions:
        return _sha256(config)
    two_tower = run.config.baselines.two_tower
    if method == "two_tower" and two_tower is not None:
        method = two_tower.tokenizer
    own, variant = split_name(base_method(method))
    config["tokenizers"] = {k: v for k, v in config["tokenizers"].items() if k == own}
    kept = chain_of(variant or MAIN, run.config.all_generators)
    config["generators"] = {k: v for k, v in config["generators"].items() if k in kept}
    return _sha256(config)


def _sha256(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _seconds_of(run: Run, method: str) -> dict[str, float]:
    """Seconds by stage; training is that of all models that led to the method's."""
    counted = _made_for(run, method)
    seconds: dict[str, float] = {}
    for title, value in run.seconds.items():
        if title in counted:
            stage = SECONDS_OF[title.partition("/")[0]]
            seconds[stage] = round(seconds.get(stage, 0) + value, 1)
    return seconds


def _made_for(run: Run, method: str) -> set[str]:
    """The artifacts whose seconds are a method's: FOLDER/NAME."""
    config = run.config
    titles = {f"recommendations/{method}", f"reports/{method}"}
    base = base_method(method)
    if method in config.fusions or base != method:
        parts = config.fusions[method].methods if method in config.fusions else (base,)
        for part in parts:
            titles |= _made_for(run, part) - {f"reports/{part}"}
        return titles | {f"rankers/{base}" if method.endswith(RANKED) else f"item_heads/{base}"}
    if method == "two_tower" and config.baselines.two_tower is not None:
        return titles | {f"tokenizers/{config.baselines.two_tower.tokenizer}"}
    tokenizer, variant = split_name(method)
    chain = chain_of(variant or MAIN, config.all_generators)
    models = {
        f"{FOLDERS[stage]}/{full_name(tokenizer, name)}"
        for name in chain
        if name in config.all_generators
        for stage in config.all_generators[name].stages
    }
    return titles | models | {f"{folder}/{method}" for folder in ("tokenizers", "sids", "models")}


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
