"""Progress lines of the alignment."""

import logging
from typing import Any

from transformers import TrainerCallback

log = logging.getLogger(__name__)

_SHOWN = (
    "rewards/margins",
    "rewards/accuracies",
    "reward",
    "groups_with_hit",
    "groups_without_gradient",
    "unique",
    "kl",
    "clipped",
    "legal_mass",
)


class FiguresLog(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Writes what the method measured to our log."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """One line per logging step that has figures."""
        logs = logs or {}
        shown = "  ".join(f"{name} {float(logs[name]):.4g}" for name in _SHOWN if name in logs)
        if shown:
            log.info("%s: %s", self.name, shown)
