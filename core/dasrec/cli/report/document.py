"""What a report says, as data.

A *system* is a method of a run. A *group* is a set of systems evaluated on the same queries: only
within a group are differences tested. Levels and ranks count from 1.
"""

from dataclasses import dataclass
from typing import NamedTuple


class Estimate(NamedTuple):
    """A figure and its 95% interval."""

    mean: float
    low: float
    high: float


class Difference(NamedTuple):
    """A system minus the reference of its group, by one metric, paired over users."""

    against: str
    difference: float
    low: float
    high: float
    p_value: float
    p_holm: float
    """Adjusted over the systems of the group (Holm, 1979)."""


@dataclass(frozen=True)
class RunFacts:
    """A run directory."""

    name: str
    dataset: str
    """Name in the config that made it; "" for a run without results.json."""
    synthetic: bool
    users: int
    items: int
    interactions: int
    protocol: dict[str, str]
    """What must be equal for figures of two runs to be comparable."""
    provenance: dict[str, str]
    """What may differ: seed, code, hardware."""
    seconds: dict[str, float]
    """By artifact."""


@dataclass(frozen=True)
class SystemFigures:
    """A method of a run on the queries of one split."""

    label: str
    run: str
    method: str
    group: int
    chosen: str
    """Why the others of its group are compared with it; "" if they are not."""
    queries: int
    users: int
    estimates: dict[str, Estimate]
    """By metric, over all queries."""
    differences: dict[str, Difference]
    """By metric, of `Document.metric` and `slice_metric`; empty for the reference."""
    others: dict[str, float]
    """Figures of the lists that have no interval: coverage, popularity, faults."""
    slices: dict[str, Estimate]
    """By slice, of `Document.slice_metric`."""
    provenance: dict[str, str]
    """Fingerprints and settings that made the lists."""


@dataclass(frozen=True)
class SlicePanel:
    """Slices that share the queries of a group of systems among them."""

    group: int
    title: str
    queries: dict[str, int]
    """By slice."""


@dataclass(frozen=True)
class Prefix:
    """The items under the first codes of a SID."""

    codes: tuple[int, ...]
    size: int
    category: str
    category_share: float
    words: tuple[str, ...]
    titles: tuple[str, ...]
    children: tuple["Prefix", ...]


@dataclass(frozen=True)
class SidFigures:
    """The SIDs of one tokenizer of a run."""

    label: str
    level_sizes: tuple[int, ...]
    learned_levels: int
    policy: str
    fingerprint: str
    has_users: bool
    figures: dict[str, float]
    usage: tuple[tuple[int, ...], ...]
    """Items per codeword in falling order, by learned level."""
    prefixes: tuple[Prefix, ...]


@dataclass(frozen=True)
class Curve:
    """A quantity of one model along its training."""

    stage: str
    quantity: str
    model: str
    epochs: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Effect:
    """A difference with its interval, for a plot."""

    label: str
    difference: Estimate
    p_holm: float | None


@dataclass(frozen=True)
class RankingFigures:
    """CTR figures of a run."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | float | None, ...], ...]
    effects: tuple[Effect, ...] = ()


@dataclass(frozen=True)
class Shown:
    """An item of a history or a list, with its SID by the system's tokenizer."""

    item_id: str
    title: str
    sid: tuple[int, ...]
    """Empty where the system has no SIDs."""
    shared: int = 0
    """Leading codes that the SID shares with that of an item of the history."""
    like: str = ""
    """Title of that item of the history, the most recent of the closest."""


@dataclass(frozen=True)
class ExampleList:
    """What one system recommends to the user of an example."""

    system: str
    rank: int | None
    """Of the target; None = not in the list."""
    target: Shown
    items: tuple[Shown, ...]


@dataclass(frozen=True)
class Example:
    """A query: a user's history, what came next, and what was recommended."""

    run: str
    user_id: str
    kind: str
    """Why it was chosen, in words."""
    history: tuple[Shown, ...]
    """Oldest first; SIDs by the first system's tokenizer that has them."""
    earlier: int
    """Events before those shown."""
    lists: tuple[ExampleList, ...]


@dataclass(frozen=True)
class Document:
    """The whole report."""

    title: str
    code: str
    split: str
    runs: tuple[RunFacts, ...]
    differing: dict[str, tuple[str, ...]]
    """Parts of the protocol in which the runs differ: the value of every run."""
    metric: str = ""
    """That systems are compared by; "" where no method was evaluated."""
    slice_metric: str = ""
    metrics: tuple[str, ...] = ()
    """With intervals, in the order of the tables."""
    systems: tuple[SystemFigures, ...] = ()
    """Group by group, the best first."""
    plotted: tuple[str, ...] = ()
    """Labels of the systems that have a colour in the plots, the reference of a group first."""
    slices: tuple[SlicePanel, ...] = ()
    sids: tuple[SidFigures, ...] = ()
    curves: tuple[Curve, ...] = ()
    ranking: tuple[RankingFigures, ...] = ()
    examples: tuple[Example, ...] = ()
