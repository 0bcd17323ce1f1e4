"""What the lists are like, whether they hit or not: coverage, Gini, popularity, novelty, faults.

Lists as in `dasrec.eval.ranking_metrics`: rows of item indices, best first, -1 where there is no
item. An index of the catalogue size or more counts as "not an item", like an empty slot.

Shape letters: Q queries, W list width, I items, K cut-off.
"""

import numpy as np
import numpy.typing as npt

from dasrec.eval.list_values import first_k, list_novelty, list_popularity, mean_known
from dasrec.eval.ranking_metrics import Ints


def invalid_rate(item_idx: Ints, k: int, num_items: int) -> float:
    """Share of the Q * K slots that are empty or hold no item of the catalogue.

    Slots beyond the width of the lists are empty ones.

    >>> invalid_rate(np.array([[0, 1, 9], [2, -1, -1]]), k=4, num_items=3)  # 9 is no item
    0.625
    """
    _, real = first_k(item_idx, k, num_items)
    return 1.0 - float(real.sum()) / (len(item_idx) * k)


def duplicate_rate(item_idx: Ints, k: int, num_items: int) -> float:
    """Share of the filled slots in the first K that repeat an item from higher up the list.

    >>> duplicate_rate(np.array([[0, 1, 0], [2, -1, -1]]), k=3, num_items=3)
    0.25
    """
    top, real = first_k(item_idx, k, num_items)
    ordered = np.sort(np.where(real, top, -1), axis=1)
    repeats = (np.diff(ordered, axis=1) == 0) & (ordered[:, 1:] >= 0)
    return float(repeats.sum()) / max(1, int(real.sum()))


def coverage_at_k(item_idx: Ints, k: int, num_items: int) -> float:
    """Share of the catalogue that is in the first K of at least one list.

    >>> coverage_at_k(np.array([[0, 1, 2], [0, -1, -1]]), k=2, num_items=4)
    0.5
    """
    return float((exposure(item_idx, k, num_items) > 0).mean())


def gini_at_k(item_idx: Ints, k: int, num_items: int) -> float:
    """Gini coefficient of how often each item of the catalogue is in a first K.

    sum_i (2 i - I - 1) x_i / (I sum_i x_i), with x ascending and i from 1: 0 = all items equally
    often, (I - 1) / I = one item takes all. Items never shown are part of it.

    >>> gini_at_k(np.array([[0], [0]]), k=1, num_items=4)
    0.75
    """
    counts = np.sort(exposure(item_idx, k, num_items))
    total = counts.sum()
    if total == 0:
        return 0.0
    weight = 2 * np.arange(1, num_items + 1) - num_items - 1
    return float((weight * counts).sum() / (num_items * total))


def popularity_at_k(item_idx: Ints, k: int, train_item_count: Ints) -> float:
    """Average recommendation popularity (ARP): mean of `list_popularity`, 0 without any item.

    >>> popularity_at_k(np.array([[0, 1], [1, -1]]), k=2, train_item_count=np.array([4, 2]))
    2.5
    """
    return _or_zero(mean_known(list_popularity(item_idx, k, train_item_count)))


def novelty_at_k(item_idx: Ints, k: int, train_item_count: Ints) -> float:
    """Mean of `list_novelty`, in bits; 0 without any item.

    >>> novelty_at_k(np.array([[0, 1]]), k=2, train_item_count=np.array([5, 1]))  # 6/8 and 2/8
    1.207...
    """
    return _or_zero(mean_known(list_novelty(item_idx, k, train_item_count)))


def describe_lists(item_idx: Ints, k: int, train_item_count: Ints) -> dict[str, float]:
    """All metrics of this module at one cut-off, keyed `name@K`."""
    num_items = len(train_item_count)
    return {
        f"coverage@{k}": coverage_at_k(item_idx, k, num_items),
        f"gini@{k}": gini_at_k(item_idx, k, num_items),
        f"popularity@{k}": popularity_at_k(item_idx, k, train_item_count),
        f"novelty@{k}": novelty_at_k(item_idx, k, train_item_count),
        f"invalid_rate@{k}": invalid_rate(item_idx, k, num_items),
        f"duplicate_rate@{k}": duplicate_rate(item_idx, k, num_items),
    }


def exposure(item_idx: Ints, k: int, num_items: int) -> npt.NDArray[np.int64]:
    """(I,) how many lists hold each item in their first K; a repeat in one list counts again."""
    top, real = first_k(item_idx, k, num_items)
    return np.bincount(top[real], minlength=num_items)


def _or_zero(value: float) -> float:
    return 0.0 if np.isnan(value) else value
