"""Subsets of queries that are reported beside all of them, as boolean masks.

Popularity always means training interactions, so that no slice looks at what is to be predicted.

* `tie_free`: the target falls on a later UTC day than the event before it; `tied`: the others.
  Within a day the order of some public logs is an artefact of their files.
* By the target's training interactions: `cold_items` (none), `head_items` (the most popular items
  that together hold a quarter of them), `tail_items` (1 to 5, unless head), `mid_items` (the rest).
  Items equally popular are on the same side of the head's border.
* By the number of events before the target: `history_1_4`, `history_5_9`, `history_10_19`,
  `history_20_up`.
* By the training interactions of the user: `activity_low`, `activity_mid`, `activity_high`, thirds
  of the users of the corpus; equally active users are in the same one.
* `first_time`: the user had the target never before; `repeated`: had it.
* `time_1` to `time_4`: quarters of the queries of the same split by the target's moment, early to
  late; targets of one moment are in the same one.

Within a group every query is in exactly one slice.
"""

from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt

from dasrec.core.corpus import SPLITS, Corpus, Int64s

Bools = npt.NDArray[np.bool_]
SliceGroup = Literal["ties", "popularity", "history_length", "activity", "repeats", "time"]

HEAD_SHARE = 0.25
TAIL_MAX_COUNT = 5
HISTORY_BINS = {"1_4": (1, 4), "5_9": (5, 9), "10_19": (10, 19), "20_up": (20, None)}
ACTIVITIES = ("low", "mid", "high")
NUM_TIMES = 4


def tie_slices(corpus: Corpus, queries: Int64s) -> dict[str, Bools]:
    """`tie_free` and `tied`."""
    tie_free = corpus.tie_free(queries)
    return {"tie_free": tie_free, "tied": ~tie_free}


def popularity_slices(corpus: Corpus, queries: Int64s) -> dict[str, Bools]:
    """`cold_items`, `tail_items`, `mid_items`, `head_items`."""
    all_counts = corpus.train_item_count
    count = all_counts[corpus.item_idx[queries]]
    head = count >= head_threshold(all_counts)
    cold = count == 0
    tail = ~head & ~cold & (count <= TAIL_MAX_COUNT)
    return {
        "cold_items": cold,
        "tail_items": tail,
        "mid_items": ~(cold | tail | head),
        "head_items": head,
    }


def head_threshold(train_item_count: npt.NDArray[np.integer]) -> int:
    """The highest c >= 1 such that items of count >= c hold `HEAD_SHARE` of the interactions.

    >>> head_threshold(np.array([5, 4, 4, 3, 2, 2]))  # 5 of 20 is a quarter
    5
    >>> head_threshold(np.array([4, 4, 3, 3, 3, 3]))  # 4 are not, so both fours
    4
    """
    descending = np.sort(train_item_count)[::-1]
    held = np.cumsum(descending)
    if not len(held) or held[-1] == 0:
        return 1
    return int(descending[np.searchsorted(held, HEAD_SHARE * held[-1])])


def history_slices(corpus: Corpus, queries: Int64s) -> dict[str, Bools]:
    """`history_1_4`, ...: events of the user before the target, whatever their split."""
    length = queries - corpus.user_start[corpus.user_idx[queries]]
    return {
        f"history_{name}": (length >= low) & ((length <= high) if high else True)
        for name, (low, high) in HISTORY_BINS.items()
    }


def activity_slices(corpus: Corpus, queries: Int64s) -> dict[str, Bools]:
    """`activity_low`, `activity_mid`, `activity_high`."""
    count_U = np.diff(corpus.train_sequences.starts)
    third = np.searchsorted(
        _edges(count_U, len(ACTIVITIES)), count_U[corpus.user_idx[queries]], side="left"
    )
    return {f"activity_{name}": third == part for part, name in enumerate(ACTIVITIES)}


def repeat_slices(corpus: Corpus, queries: Int64s) -> dict[str, Bools]:
    """`first_time` and `repeated`: any event before the target counts, whatever its split."""
    pairs = corpus.user_idx.astype(np.int64) * corpus.num_items + corpus.item_idx
    _, first, pair = np.unique(pairs, return_index=True, return_inverse=True)
    repeated = first[pair[queries]] < queries
    return {"first_time": ~repeated, "repeated": repeated}


def time_slices(corpus: Corpus, queries: Int64s) -> dict[str, Bools]:
    """`time_1` to `time_4`; the borders are those of all queries of the split, asked or not."""
    quarter = np.zeros(len(queries), np.int64)
    for split, number in SPLITS.items():
        chosen = np.asarray(corpus.split[queries] == number)
        if chosen.any():
            edges = _edges(corpus.timestamp[corpus.queries(split)], NUM_TIMES)
            quarter[chosen] = np.searchsorted(edges, corpus.timestamp[queries[chosen]], "left")
    return {f"time_{part + 1}": quarter == part for part in range(NUM_TIMES)}


def _edges(values: npt.NDArray[np.integer], parts: int) -> npt.NDArray[np.integer]:
    """(parts - 1,) highest value of each part but the last, parts as equal as ties allow."""
    ordered = np.sort(values)
    places = -(-len(ordered) * np.arange(1, parts) // parts) - 1
    return np.asarray(ordered[np.maximum(places, 0)])


SLICE_GROUPS: dict[SliceGroup, Callable[[Corpus, Int64s], dict[str, Bools]]] = {
    "ties": tie_slices,
    "popularity": popularity_slices,
    "history_length": history_slices,
    "activity": activity_slices,
    "repeats": repeat_slices,
    "time": time_slices,
}


def slice_masks(
    corpus: Corpus, queries: Int64s, groups: Iterable[SliceGroup] = tuple(SLICE_GROUPS)
) -> dict[str, Bools]:
    """(Q,) masks of all slices of the groups, by slice name; `all` is not among them."""
    masks: dict[str, Bools] = {}
    for group in groups:
        masks |= SLICE_GROUPS[group](corpus, queries)
    return masks
