"""Figures that others report, shown beside ours: written by hand, never measured by us.

`docs/results/published.jsonl` holds a line for every figure, with where it was read and how its
protocol differs from the one of our table. None of them is compared by a test.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from pydantic import Field, field_validator

from dasrec.core.config import StageConfig
from dasrec.eval.result_line import METRIC
from dasrec.eval.tables import markdown_table, number

TITLE = "**published figures, not measured by us**"


class PublishedLine(StageConfig):
    """What a paper, a repository or a user reports of one method on one data set."""

    topic: Literal["published"]
    """Says in the line itself that nobody measured it here."""
    dataset: str
    """The name that our lines of the same data have, e.g. "amazon_beauty_2014"."""
    protocol: str
    """The protocol of our table that it is shown below, e.g. "leave_one_out/full/item"."""
    method: str = Field(min_length=1)
    """As the source calls it, with what tells it from others there: "TIGER (RQ-VAE)"."""
    metrics: dict[str, float] = Field(min_length=1)
    """`name@K`, as shares: 0.0648, not 6.48."""
    source: str = Field(min_length=1)
    """Whose figure it is: paper, repository or issue."""
    address: str = Field(pattern=r"https://\S+")
    """Where it was read."""
    evidence: Literal["paper", "re-run", "reported by users"]
    """A paper's own figure, a re-run by authors who publish their code, or a post in an issue."""
    differences: tuple[str, ...] = Field(min_length=1)
    """What its protocol has that ours has not; "...: not stated" where the source is silent."""

    @field_validator("metrics")
    @classmethod
    def _shares_at_k(cls, metrics: dict[str, float]) -> dict[str, float]:
        for name, value in metrics.items():
            if not METRIC.fullmatch(name) or "@" not in name or "[" in name:
                raise ValueError(f"expected name@K, got '{name}'")
            if not 0 <= value <= 1:
                raise ValueError(f"expected shares from 0 to 1, got {value} for '{name}'")
        for one, two in pairwise(sorted(metrics, key=lambda name: (_metric(name), _cut(name)))):
            if _metric(one) == _metric(two) and metrics[one] > metrics[two]:
                raise ValueError(
                    f"'{one}' is {metrics[one]}, more than {metrics[two]} for '{two}', which one "
                    "target a user rules out; leave out what is misprinted"
                )
        return metrics

    @property
    def place(self) -> tuple[str, str]:
        """The data set and protocol of the table of ours that it is shown below."""
        return self.dataset, self.protocol


def published_parts(lines: Sequence[PublishedLine]) -> list[str]:
    """Title, table and the numbered differences that its last column names; nothing of nothing."""
    if not lines:
        return []
    metrics = sorted({name for line in lines for name in line.metrics}, key=_by_cut)
    places = {text: at for at, text in enumerate(_differences(lines), 1)}
    cells = [
        [
            line.method,
            line.evidence,
            f"[{line.source}]({line.address})",
            *(number(line.metrics.get(name)) for name in metrics),
            ", ".join(str(places[text]) for text in line.differences),
        ]
        for line in lines
    ]
    header = ["method", "evidence", "source", *metrics, "differences"]
    listed = [f"{at}. {text}" for text, at in places.items()]
    told = "Differences to the protocol of our table:"
    return [TITLE, markdown_table(header, cells, left=3), told, "\n".join(listed)]


def _differences(lines: Sequence[PublishedLine]) -> list[str]:
    return list(dict.fromkeys(text for line in lines for text in line.differences))


def _by_cut(name: str) -> tuple[int, bool, str]:
    """recall@5, ndcg@5, recall@10, ...: by K, hits before their ranks."""
    metric = _metric(name)
    return _cut(name), metric == "ndcg", metric


def _metric(name: str) -> str:
    return name.partition("@")[0]


def _cut(name: str) -> int:
    return int(name.partition("@")[2])
