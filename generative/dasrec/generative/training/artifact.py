"""Begin and end of a training stage that several processes may share."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dasrec.core import Manifest, load_manifest, recipe_digest, work_dir, write_artifact
from dasrec.core.processes import processes


def training_folder(
    out: Path, kind: str, config: Mapping[str, Any], inputs: Mapping[str, Manifest], seed: int
) -> Path:
    """The directory of the checkpoints; emptied when the recipe has changed."""
    prints = {name: manifest.fingerprint for name, manifest in inputs.items()}
    with processes().main_process_first():  # it may have to empty the folder
        return work_dir(out, recipe_digest(kind, config, prints, seed))


def write_trained(
    out: Path,
    kind: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, Manifest],
    payload: Callable[[Path], None],
    work: Path,
    *,
    seed: int,
    metrics: Mapping[str, Any],
    replace: bool,
) -> Manifest:
    """Write the artifact in the main process, remove `work`, and give all its manifest."""
    state = processes()
    state.wait_for_everyone()
    if state.is_main_process:
        write_artifact(
            out, kind, config, inputs, payload, seed=seed, metrics=metrics, replace=replace
        )
        shutil.rmtree(work)
    state.wait_for_everyone()
    return load_manifest(out, kind)
