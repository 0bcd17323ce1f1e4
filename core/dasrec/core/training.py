"""The one plain torch loop (tokenizer, rankers, SASRec): seeded, logged, resumable.

Every epoch is seeded by (seed, name, epoch), so a run that was stopped and started again goes on
from its last finished epoch and ends with the same weights as one that never stopped.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from dasrec.core.seeding import seed_everything

log = logging.getLogger(__name__)


class Stateful(Protocol):
    """Anything with torch's state_dict protocol (module, optimizer, scheduler)."""

    def state_dict(self) -> dict[str, Any]:
        """State to save."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """State to restore."""
        ...


@dataclass(frozen=True)
class FitResult:
    """What a finished `fit` hands back; the model holds the weights of the best epoch."""

    best_epoch: int
    best_metrics: dict[str, float]
    history: list[dict[str, float]]


def fit(
    model: nn.Module,
    others: Mapping[str, Stateful],
    run_epoch: Callable[[int], dict[str, float]],
    *,
    name: str,
    num_epochs: int,
    seed: int,
    work: Path,
    validate: Callable[[int], dict[str, float]] | None = None,
    primary: str = "",
    patience: int | None = None,
    write: bool = True,
) -> FitResult:
    """Run epochs, checkpoint after each, keep the weights of the best one.

    Args:
        model: the module being trained; ends with the best epoch's weights.
        others: optimizer, scheduler, ...: restored on resume.
        run_epoch: trains one epoch (given its number from 0) and returns mean losses.
        name: shown in progress lines and used to derive seeds.
        num_epochs: epochs at most.
        seed: the run's seed.
        work: directory for the checkpoint and metrics.jsonl.
        validate: returns validation metrics after an epoch; without it the last epoch is kept.
        primary: the metric of `validate` to maximise.
        patience: stop after this many validations without a better `primary`.
        write: keep checkpoints and metrics.jsonl; false on all but one of several processes.
    """
    checkpoint = work / "checkpoint.pt"
    history: list[dict[str, float]] = []
    best: dict[str, Any] = {"epoch": -1, "value": -float("inf"), "metrics": {}, "weights": None}
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        for key, other in others.items():
            other.load_state_dict(state["others"][key])
        history, best = state["history"], state["best"]
        log.info("%s: resumed after epoch %d", name, len(history))
    for epoch in range(len(history), num_epochs):
        if _patience_spent(best["epoch"], epoch, patience):
            break
        began = time.perf_counter()
        seed_everything(seed, name, "epoch", epoch)
        model.train()
        metrics = run_epoch(epoch)
        if validate is not None:
            model.eval()
            with torch.no_grad():
                metrics |= validate(epoch)
        if validate is None or metrics[primary] > best["value"]:
            best = {
                "epoch": epoch,
                "value": metrics.get(primary, 0.0),
                "metrics": metrics,
                "weights": {k: v.detach().clone() for k, v in model.state_dict().items()},
            }
        history.append(metrics)
        seconds = time.perf_counter() - began
        if not write:
            continue
        _save(checkpoint, model, others, history, best)
        (work / "metrics.jsonl").write_text(
            "".join(json.dumps({"epoch": i, **m}) + "\n" for i, m in enumerate(history))
        )
        shown = "  ".join(f"{key} {value:.4g}" for key, value in metrics.items())
        log.info("%s: epoch %d/%d  %s  (%.1f s)", name, epoch + 1, num_epochs, shown, seconds)
    if best["weights"] is not None:
        model.load_state_dict(best["weights"])
    model.eval()
    return FitResult(best["epoch"], best["metrics"], history)


def _patience_spent(best_epoch: int, epoch: int, patience: int | None) -> bool:
    return patience is not None and best_epoch >= 0 and epoch - best_epoch > patience


def _save(
    path: Path,
    model: nn.Module,
    others: Mapping[str, Stateful],
    history: list[dict[str, float]],
    best: dict[str, Any],
) -> None:
    scratch = path.with_suffix(".tmp")
    state = {
        "model": model.state_dict(),
        "others": {key: other.state_dict() for key, other in others.items()},
        "history": history,
        "best": best,
    }
    torch.save(state, scratch)
    os.replace(scratch, path)
