"""The formats of `docs/results/<topic>.jsonl` and `docs/results/comparisons/<topic>.jsonl`."""

import re
from datetime import datetime
from typing import Any

from pydantic import Field, field_validator

from dasrec.core.config import StageConfig
from dasrec.core.corpus import Split

_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
METRIC = re.compile(r"[a-z0-9_]+(@[0-9]+)?(\[[a-z0-9_]+\])?")

PUBLISHED = "published"
"""Topic of the figures of others, see `dasrec.eval.published`; no measurement may go there."""


def check_topic(topic: str) -> None:
    """Refuse a topic that cannot name a file.

    Raises:
        ValueError: characters other than lower-case letters, digits and _, or the topic of the
            figures of others.
    """
    if topic == PUBLISHED:
        raise ValueError(f"topic: '{topic}' holds what others report; give another topic")
    if not _NAME.fullmatch(topic):
        raise ValueError(f"topic: expected lower-case letters, digits and _, got '{topic}'")


class Line(StageConfig):
    """What every line says: what was measured, on what, by which command, where and when."""

    topic: str
    """Names the file: ladder, tokenizers, generator, ranking, debias, ..."""
    dataset: str
    """E.g. "amazon_beauty_2014"."""
    protocol: str
    """How the data was split and ranked, e.g. "leave_one_out/full/item"."""
    split: Split
    """Where the metrics were measured."""
    method: str
    """E.g. "das", "sasrec", "popularity"."""
    users: int = Field(ge=0)
    """How many users the metrics (without a slice) are about."""
    hardware: str
    """E.g. "2 CPU cores, 24 GiB"."""
    command: str
    """What to type to get the figure again."""
    data_sha256: str
    """Digest of the input data."""
    code: str
    """Version and commit."""
    date: str
    """UTC, ISO 8601."""

    @field_validator("topic")
    @classmethod
    def _file_name(cls, topic: str) -> str:
        check_topic(topic)
        return topic

    @field_validator("date")
    @classmethod
    def _iso(cls, date: str) -> str:
        datetime.fromisoformat(date)
        return date


class ResultLine(Line):
    """One figure-bearing run: one line of a topic's file."""

    variant: str = ""
    """What else tells this run from others of the method, e.g. "lora_sft"."""
    seed: int
    """Seed of the run."""
    metrics: dict[str, float]
    """`name`, `name@K` and, for a slice, `name@K[slice]`."""
    seconds: dict[str, float] = Field(default_factory=dict)
    """Wall-clock seconds per stage."""
    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """95% bootstrap intervals over users of some of the metrics, by their names."""
    config_sha256: str
    """Digest of the resolved config."""
    conditions: dict[str, Any] = Field(default_factory=dict)
    """The report's protocol.json, see `dasrec.eval.protocol.Protocol`. Empty in lines from before
    there were protocols, and for figures that are not of lists."""

    @field_validator("metrics")
    @classmethod
    def _metric_names(cls, metrics: dict[str, float]) -> dict[str, float]:
        for name, value in metrics.items():
            if not METRIC.fullmatch(name):
                raise ValueError(f"expected name, name@K or name@K[slice], got '{name}'")
            if value != value or abs(value) == float("inf"):
                raise ValueError(f"'{name}' is {value}; leave out what has no value")
        return metrics

    @property
    def run(self) -> tuple[str, str, str, str, int]:
        """What a later line of the same run replaces."""
        return (self.dataset, self.protocol, self.method, self.variant, self.seed)


class ComparisonLine(Line):
    """One method against a baseline on the same queries, see `dasrec.eval.paired`."""

    metric: str
    """E.g. "ndcg@10"."""
    baseline: str
    """What every other method is compared with."""
    seeds: tuple[int, ...]
    """Runs that were pooled, by seed."""
    mean_baseline: float
    """Mean over queries and seeds."""
    mean_method: float
    """Mean over queries and seeds."""
    difference: float
    """mean_baseline - mean_method."""
    low: float
    """Lower end of the 95% bootstrap interval of the difference."""
    high: float
    """Upper end."""
    p_value: float
    """Two-sided, of the randomisation test."""
    p_holm: float
    """Adjusted over the methods compared in one call by this metric."""
    p_seeds: float | None = None
    """Two-sided, of the paired t test over seeds: would it hold for other trainings, where the
    others ask about other users. None: not tested, or one seed."""

    @property
    def run(self) -> tuple[str, ...]:
        """What a later line of the same comparison replaces."""
        return (self.dataset, self.protocol, self.split, self.metric, self.baseline, self.method)
