"""What hits on SIDs instead of items would say, and how many targets share their SID.

Counting a hit when the SID is right flatters a tokenizer with collisions; the figure is printed
only next to the item-level one.

Shape letters: I items, L levels, Q queries, W list width.
"""

import numpy as np
import numpy.typing as npt

from dasrec.core.semantic_ids import Codes
from dasrec.eval.ranking_metrics import Int64s, Ints, rank_of_target


def sid_index(codes: Codes) -> Int64s:
    """(I,) number of each item's SID; items that share all L codes share the number.

    >>> sid_index(np.array([[3, 1], [0, 2], [3, 1]], np.uint16))
    array([1, 0, 1])
    """
    return np.unique(np.asarray(codes), axis=0, return_inverse=True)[1].reshape(-1)


def target_collision_rate(sid_of_item: Int64s, targets: Ints) -> float:
    """Share of targets whose SID belongs to another item of the catalogue too.

    >>> target_collision_rate(np.array([1, 0, 1]), np.array([0, 0, 1, 1]))
    0.5
    """
    return float((np.bincount(sid_of_item)[sid_of_item[targets]] > 1).mean())


def sid_rank_of_target(item_idx: Ints, targets: Ints, sid_of_item: Int64s) -> Int64s:
    """Rank of the target's SID among the different SIDs of each list; 0 = not there.

    >>> sid_of_item = np.array([7, 7, 8, 9])
    >>> sid_rank_of_target(np.array([[0, 1, 3, 2]]), np.array([2]), sid_of_item)  # 7, 9, 8
    array([3])
    """
    sids = np.where(item_idx >= 0, sid_of_item[np.maximum(item_idx, 0)], -1)
    position = rank_of_target(sids, sid_of_item[targets])
    new = _first_in_row(sids) & (np.arange(1, sids.shape[1] + 1) <= position[:, None])
    return np.asarray(new.sum(1))


def _first_in_row(values: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, 1)
    first = np.ones(values.shape, np.bool_)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    result = np.empty_like(first)
    np.put_along_axis(result, order, first, 1)
    return result
