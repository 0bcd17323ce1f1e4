"""What of a user a sequence shows, and how: the prompt format that a model is trained with.

The format belongs to the base model and is saved beside it, so that prompts are rendered as the
training sequences were.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from dasrec.core import StageConfig, build_config, read_yaml

FILE = "prompt.json"

TIME_BUCKETS = 24
"""Bucket k holds gaps of 2^k - 1 to 2^(k+1) - 2 whole minutes; the last one is open (16 years)."""

UNKNOWN_TIME = np.iinfo(np.int64).min
"""A time that is not known; a gap next to it gets the token of unknown gaps."""


class PromptConfig(StageConfig):
    """The prompt format."""

    max_history: int = Field(20, ge=1)
    """Items of context at most, the most recent ones. Longer training histories are cut into
    windows."""

    user_sid: bool = True
    """Begin with the user's SID where the semantic IDs have a user side."""

    time: bool = False
    """Put a token before each item that tells the time since the item before it, in powers of two
    of minutes; in a prompt the last one tells the time from the last item to the request."""

    context: tuple[str, ...] = ()
    """Columns of the users' table that are written out as text before the first item."""

    context_tokens: int = Field(64, ge=1)
    """Tokens of that text at most."""

    @field_validator("context")
    @classmethod
    def _each_once(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(columns)) < len(columns):
            raise ValueError(f"a column is named twice in {list(columns)}; name it once")
        return columns

    def save(self, directory: Path) -> None:
        """Write prompt.json."""
        (directory / FILE).write_text(self.model_dump_json(indent=1) + "\n")


def load_prompt(directory: str | Path) -> PromptConfig:
    """Read prompt.json.

    Raises:
        ValueError: the model has none, or it is not a prompt format.
    """
    path = Path(directory) / FILE
    if not path.exists():
        raise ValueError(
            f"{directory}: has no {FILE}, which says how its prompts are written; it was made by "
            "an earlier version of dasrec: run pretrain again"
        )
    return build_config(PromptConfig, read_yaml(path), str(path))  # JSON is YAML


def time_buckets(gaps: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """The bucket of each gap in seconds: floor(log2(1 + whole minutes)), 0 for a negative gap."""
    minutes = np.maximum(np.asarray(gaps, np.int64), 0) // 60
    _, exponent = np.frexp((minutes + 1).astype(np.float64))
    buckets: npt.NDArray[np.int64] = np.minimum(exponent - 1, TIME_BUCKETS - 1).astype(np.int64)
    return buckets
