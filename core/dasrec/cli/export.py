"""`dasrec export`: from a run directory to a folder that other software can serve."""

import json
import logging
from pathlib import Path
from typing import Any

from dasrec.cli.generator_steps import split_name, trained_model
from dasrec.cli.lineage import base_model_name, lineage
from dasrec.core import build_config, load_corpus, load_manifest, load_sids
from dasrec.eval.report import load_report
from dasrec.generative.export.card import Metrics
from dasrec.generative.export.export import ExportConfig, export_generator

log = logging.getLogger(__name__)


def export_run(
    run_dir: Path,
    method: str,
    out: Path | None = None,
    generator: Path | None = None,
    **options: Any,
) -> Path:
    """Export the generator of a run.

    Args:
        run_dir: the run directory.
        method: the tokenizer, or TOKENIZER.VARIANT for another generator than the main one.
        out: folder to write; None is exports/METHOD in the run directory.
        generator: a generator of an earlier run, for a catalogue whose SIDs extend its.
        **options: fields of `ExportConfig`; a None takes the default, which for the names is
            made from the run.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder is taken.
        FileNotFoundError: a part of the run is missing.
        ValueError: options that are wrong, or parts that do not belong together.
    """
    corpus = load_corpus(run_dir / "corpus")
    path = generator or trained_model(run_dir, method)
    sids = load_sids(run_dir / "sids" / split_name(method)[0], corpus.manifest)
    given = {key: value for key, value in options.items() if value is not None}
    results = run_dir / "results.json"
    if results.exists():  # otherwise no run has ended here
        told = json.loads(results.read_text())
        given = {"dataset": told["dataset"], "synthetic": told["synthetic"]} | given
    given.setdefault("dataset", run_dir.resolve().name)
    given.setdefault("name", f"{given['dataset']}-{method}")
    line = lineage(path)
    given.setdefault("base_model", base_model_name(line))
    config = build_config(ExportConfig, given, "export")
    out = out or run_dir / "exports" / method
    metrics = _metrics(run_dir, method, line[0].fingerprint)
    export_generator(config, path, corpus, sids, out, metrics=metrics)
    return out


def _metrics(run_dir: Path, method: str, generator: str) -> Metrics:
    """The figures of the method's lists, if it was evaluated and the lists are this generator's."""
    path = run_dir / "reports" / method
    if not path.exists():
        log.warning("export: %s was not evaluated; the card holds no figures", method)
        return {}
    report = load_report(path)
    lists = load_manifest(run_dir / "recommendations" / method, "recommendations")
    made = report.manifest.inputs["recommendations"] == lists.fingerprint
    if not made or lists.inputs["generator"] != generator:
        log.warning(
            "export: %s is of another generator; the card holds no figures (run retrieve and "
            "evaluate to have them)",
            path,
        )
        return {}
    return {split: slices["all"] for split, slices in report.splits.items()}
