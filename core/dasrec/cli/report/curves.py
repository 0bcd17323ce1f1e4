"""Training curves, from the logs that the artifacts of a run keep."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dasrec.cli.report.document import Curve
from dasrec.cli.report.runs import NamedRun
from dasrec.core.artifacts import MANIFEST

STAGES = {
    "tokenizers": "Tokenizer",
    "bases": "Pretraining",
    "generators": "Fine-tuning",
    "aligned": "Alignment",
    "item_heads": "Item head",
    "models": "Baseline",
    "rankers": "Ranker",
}
"""By folder of the run directory."""

UNINTERESTING = {"epoch", "step", "learning_rate", "grad_norm", "num_tokens"}


def curves_of(runs: Sequence[NamedRun]) -> list[Curve]:
    """Every quantity of every model that was logged at least twice."""
    found: list[Curve] = []
    for folder, stage in STAGES.items():
        for named in runs:
            for path in named.artifacts(folder):
                model = path.name if len(runs) == 1 else f"{named.name}: {path.name}"
                found += _curves(stage, model, _log(path))
    return found


def _curves(stage: str, model: str, log: Sequence[Mapping[str, Any]]) -> Iterable[Curve]:
    quantities = dict.fromkeys(name for row in log for name in row if name not in UNINTERESTING)
    for quantity in quantities:
        points = [
            (float(row["epoch"]), float(row[quantity]))
            for row in log
            if isinstance(row.get(quantity), int | float)
        ]
        if len(points) > 1:
            epochs, values = zip(*points, strict=True)
            yield Curve(stage, quantity, model, epochs, values)


def _log(path: Path) -> list[dict[str, Any]]:
    """Rows with the number of epochs finished, `epoch`, and what was measured then."""
    if (path / "metrics.jsonl").exists():
        rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        return [row | {"epoch": number} for number, row in enumerate(rows, 1)]
    metrics = json.loads((path / MANIFEST).read_text())["metrics"]
    if "history" in metrics:
        return [row | {"epoch": number} for number, row in enumerate(metrics["history"], 1)]
    # the trainer's last row sums the training up
    log = [row for row in metrics.get("log", []) if "train_runtime" not in row]
    before = {f"eval_{name}": value for name, value in metrics.get("before", {}).items()}
    return [before | {"epoch": 0}, *log] if before else log
