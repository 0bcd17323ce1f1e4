"""Which tables the results page holds for a topic, and which metrics are in them."""

import re
from collections.abc import Callable
from typing import NamedTuple

from dasrec.eval.report import split_key
from dasrec.eval.tables import COLUMNS

# In the lines, but too much for a table.
_HIDDEN = {
    "hr",
    "mrr",
    "map",
    "popularity",
    "novelty",
    "duplicate_rate",
    "queries",
    "missing_queries",
}
_HIDDEN_SIDS = re.compile(r"(user_)?(gini|top1pct_mass|(usage|code_gini|copurchase_chance)_\d+)")
_BY_USER_AND_TIME = re.compile(r"activity_.*|time_.*|first_time|repeated")
# Without a cut-off, but not about semantic IDs.
_NOT_OF_SIDS = {"queries", "missing_queries", "target_collision_rate"}
_NOT_OF_SIDS |= {"auc", "gauc", "uauc", "logloss", "ece", "ece_floor", "pcoc"}

# Shown beside accuracy, with the text above the column where it is not the key.
_BEYOND_COLUMNS = {
    "recall@10": "",
    "recall@10[cold_items]": "cold-item recall@10",
    "queries[cold_items]": "cold queries",
    "recall@10[tail_items]": "tail-item recall@10",
    "popularity@10": "ARP@10",
    "popularity_gap@10": "",
    "coverage@10": "",
    "gini@10": "",
    "novelty@10": "",
    "diversity@10": "",
    "serendipity@10": "",
}
_FAULT_COLUMNS = (
    "invalid_rate@10",
    "duplicate_rate@10",
    "target_collision_rate",
    "recall@10",
    "recall@10[sid_level]",
    "collision_rate_before",
    "collision_rate",
    "largest_group",
)
STAGES = ("tokenize", "assign", "train", "retrieve", "rank", "evaluate")
"""What seconds are shown of by themselves, in the order that the stages run in."""


class TableOf(NamedTuple):
    """A table: methods down, the metrics that `wanted` picks across."""

    title: str
    """Behind the split; empty for the first table."""
    wanted: Callable[[str], bool]
    """Whether a metric of the lines has a column."""
    header: Callable[[str], str] = str
    """Text above a metric's column."""
    seconds: tuple[str, ...] = ()
    """Stages whose seconds have a column, behind the metrics."""
    every_split: bool = True
    """False where the figures do not depend on the split."""
    order: tuple[str, ...] = COLUMNS
    """Columns that come first; the others follow in the order of the lines."""
    test_only: bool = False
    """Not shown for the other splits."""


def _is_shown(key: str) -> bool:
    metric, part = split_key(key)
    name, _, k = metric.partition("@")
    if part == "all" and name in ("recall", "ndcg"):
        return True
    return part == "all" and name not in _HIDDEN and key != "gini@10" and k in ("", "10")


def _is_accuracy(key: str) -> bool:
    """Accuracy, and whatever has no table of its own."""
    if split_key(key)[0].partition("@")[0] in ("recall", "ndcg"):
        return _is_shown(key)
    elsewhere = key in _BEYOND_COLUMNS or key in _FAULT_COLUMNS or _is_of_sids(key)
    return _is_shown(key) and not elsewhere


def _is_quality(key: str) -> bool:
    return key in ("recall@10", "ndcg@10", "recall@20", "coverage@10", "invalid_rate@10")


def _is_tie_free(key: str) -> bool:
    metric, part = split_key(key)
    return part == "tie_free" and metric.partition("@")[0] in ("recall", "ndcg", "queries")


def _is_slice(key: str) -> bool:
    metric, part = split_key(key)
    return metric == "recall@10" and part != "all" and not _BY_USER_AND_TIME.fullmatch(part)


def _is_slice_by_user_and_time(key: str) -> bool:
    metric, part = split_key(key)
    return metric == "recall@10" and bool(_BY_USER_AND_TIME.fullmatch(part))


def _is_of_sids(key: str) -> bool:
    metric, part = split_key(key)
    has_cut = "@" in metric and not metric.startswith("alignment_recall@")
    return part == "all" and not has_cut and metric not in _NOT_OF_SIDS


def _is_of_items(key: str) -> bool:
    return _is_of_sids(key) and not key.startswith("user_") and not _HIDDEN_SIDS.fullmatch(key)


def _is_of_users(key: str) -> bool:
    return _is_of_sids(key) and key.startswith("user_") and not _HIDDEN_SIDS.fullmatch(key)


def _metric(key: str) -> str:
    return split_key(key)[0]


def _slice(key: str) -> str:
    return split_key(key)[1]


_TIE_FREE = TableOf("tie-free", _is_tie_free, _metric)
_SLICES = TableOf("recall@10 by slice", _is_slice, _slice)
_MORE_SLICES = TableOf(
    "recall@10 by user activity, repetition and time", _is_slice_by_user_and_time, _slice
)
_BEYOND = TableOf(
    "popularity bias, new items, variety",
    _BEYOND_COLUMNS.__contains__,
    lambda key: _BEYOND_COLUMNS[key] or key,
    order=tuple(_BEYOND_COLUMNS),
    test_only=True,
)
_FAULTS = TableOf(
    "faults of the lists, collisions of SIDs",
    _FAULT_COLUMNS.__contains__,
    order=_FAULT_COLUMNS,
    test_only=True,
)
_GENERIC = (TableOf("", _is_shown), _TIE_FREE, _SLICES, _MORE_SLICES)
_GENERATORS = (TableOf("", _is_accuracy), _TIE_FREE, _BEYOND, _FAULTS, _SLICES, _MORE_SLICES)
_TOKENIZERS = (
    TableOf("", _is_quality, seconds=("tokenize", "train", "retrieve")),
    _TIE_FREE,
    _BEYOND,
    _SLICES,
    TableOf("semantic IDs of items", _is_of_items, every_split=False),
    TableOf("semantic IDs of users", _is_of_users, every_split=False),
)
_OF_TOPIC = {"ladder": _GENERATORS, "generator": _GENERATORS, "tokenizers": _TOKENIZERS}


def tables_of(topic: str) -> tuple[TableOf, ...]:
    """The tables of a topic, per split; one that no line has a figure for is left out."""
    return _OF_TOPIC.get(topic, _GENERIC)


def shows_costs(topic: str) -> bool:
    """Whether a topic has a table of seconds by stage (in the footnotes they are always)."""
    return topic in ("ladder", "generator")
