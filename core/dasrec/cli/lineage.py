"""What a model of a run was made from, model by model."""

import json
from pathlib import Path

from dasrec.core.artifacts import MANIFEST, Manifest
from dasrec.generative.model.load import generator_manifest

KINDS = ("base_model", "generator")


def lineage(path: Path) -> list[Manifest]:
    """Manifests of a model and of those it was trained from, the newest first.

    They are found by fingerprint among the models of the run directory that `path` lies in; one
    that was removed since ends the line.

    Args:
        path: a generator or base_model: RUN/FOLDER/NAME.

    Raises:
        FileNotFoundError: there is no model at `path`.
    """
    known: dict[str, Manifest] = {}
    for file in path.resolve().parents[1].glob(f"*/*/{MANIFEST}"):
        values = json.loads(file.read_text())
        if values["kind"] in KINDS:
            manifest = Manifest(**values)
            known[manifest.fingerprint] = manifest
    line = [generator_manifest(path)]
    for manifest in line:  # grows while it is read
        line += [known[key] for key in manifest.inputs.values() if key in known]
    return line


def base_model_name(line: list[Manifest]) -> str | None:
    """Hub name of the language model that a line of models started from.

    None for a model built from a config, and for one given by a local path, whose name says
    nothing elsewhere.
    """
    for manifest in line:
        if "base" in manifest.config and "base_files" not in manifest.inputs:
            name: str | None = manifest.config["base"].get("name")
            return name
    return None


def tasks_of(line: list[Manifest]) -> set[str]:
    """The training tasks that a model or any before it was trained with."""
    shares = [
        manifest.config.get("tasks", {})
        for manifest in line
        if manifest.config.get("trainer", {}).get("num_train_epochs") != 0  # tokens only
    ]
    return {task for tasks in shares for task, share in tasks.items() if share}
