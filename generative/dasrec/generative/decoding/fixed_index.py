"""A catalogue numbered anew, so that one level's children are read with a fixed shape.

Shape letters: L levels, N nodes of a level, C children, M most children of a node, F leaves,
I items, B users, W beams, E excluded items (padded).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dasrec.generative.decoding.filters import ItemFilter, Predicates
from dasrec.generative.decoding.index import SidIndex


class FixedChildren(NamedTuple):
    """Children of beams, padded to the most of any node of the level."""

    node_BWM: Tensor
    code_BWM: Tensor
    """The last code; K of the level for padding of a short SID."""
    real_BWM: Tensor
    """bool: which there are."""


class FixedIndex:
    """A copy of an index as flat tensors; later changes of a living catalogue do not show.

    Nodes of a level are numbered in the order of SIDs, children of a node are neighbours, and so
    are the items below it. Unlike `SidIndex.children`, no shape depends on what the tensors hold.
    """

    def __init__(self, index: SidIndex, allowed: Predicates | None = None) -> None:
        """Copy the items that are neither retired nor forbidden to where the index lies.

        Raises:
            ValueError: No item is left, or a predicate made for another index.
        """
        self.level_token_ids = index.level_token_ids
        self.level_padded = index.level_padded
        self.num_items = index.num_items
        self.branch: list[int] = []
        self._code: list[Tensor] = []
        self._start: list[Tensor] = []
        filter_ = ItemFilter(index, 1, allowed)
        node_N = torch.zeros(1, dtype=torch.int64, device=index.device)
        for level in range(index.num_levels):
            node_C, code_C, row_C, _ = index.children(level, node_N)
            order_C = (row_C * (len(index.level_token_ids[level]) + 1) + code_C).argsort()
            if not filter_.is_trivial:
                order_C = order_C[filter_.alive(level, node_C, 0 * node_C)[order_C]]
            count_R = torch.bincount(row_C[order_C], minlength=len(node_N))
            node_N = node_C[order_C]
            self._code.append(code_C[order_C].int())
            self._start.append(_starts(count_R))
            self.branch.append(int(count_R.max()))
            if not len(node_N):
                raise ValueError("allowed: no item is left; allow some of the catalogue's")
        self._place_items(index, filter_, node_N)

    @property
    def num_levels(self) -> int:
        """L."""
        return len(self._code)

    def children(self, level: int, node_BW: Tensor) -> FixedChildren:
        """Nodes of `level` below nodes of the level before; level 0 is below node 0."""
        low_BW1, high_BW1 = _range(self._start[level], node_BW)
        place_BWM = low_BW1 + torch.arange(self.branch[level], device=node_BW.device)
        node_BWM = place_BWM.clamp(max=len(self._code[level]) - 1)
        return FixedChildren(node_BWM, self._code[level][node_BWM].long(), place_BWM < high_BW1)

    def items(self, leaf_BW: Tensor, excluded_BE: Tensor) -> Tensor:
        """(B, W, M) items of leaves, in the index's order, -1 where there is none or excluded."""
        low_BW1, high_BW1 = _range(self._first_place[-1], leaf_BW)
        place_BWM = low_BW1 + torch.arange(self._most_items, device=leaf_BW.device)
        item_BWM = self._item[place_BWM.clamp(max=len(self._item) - 1)].long()
        gone_BWM = place_BWM >= high_BW1
        if excluded_BE.shape[1]:
            place_BN = place_BWM.flatten(1)
            gone_BWM |= _between(excluded_BE, place_BN, place_BN + 1).view_as(gone_BWM) > 0
        return item_BWM.masked_fill_(gone_BWM, -1)

    def places(self, item_BE: Tensor) -> Tensor:
        """(B, E) sorted places of different items, for `alive`; -1 stands for no item."""
        place_BE = self._place_of_item[item_BE].masked_fill(item_BE < 0, len(self._item))
        place_BE = place_BE.sort(1).values
        again_BE = torch.zeros_like(place_BE, dtype=torch.bool)
        again_BE[:, 1:] = place_BE[:, 1:] == place_BE[:, :-1]
        return place_BE.masked_fill_(again_BE, len(self._item)).sort(1).values

    def alive(self, level: int, node_BN: Tensor, excluded_BE: Tensor) -> Tensor:
        """(B, N) bool: whether a node has an item that is not at an excluded place."""
        low_BN, high_BN = self._first_place[level][node_BN], self._first_place[level][node_BN + 1]
        return high_BN - low_BN > _between(excluded_BE, low_BN, high_BN)

    def _place_items(self, index: SidIndex, filter_: ItemFilter, leaf_F: Tensor) -> None:
        """Order the items by leaf, and within a leaf as the index does."""
        ranges = index.place_ranges(index.num_levels - 1, leaf_F)
        low_N = torch.stack([low for low, _ in ranges], 1).flatten()
        count_N = torch.stack([high - low for low, high in ranges], 1).flatten()
        first_N = count_N.cumsum(0) - count_N
        place_I = (low_N - first_N).repeat_interleave(count_N)
        place_I = place_I + torch.arange(len(place_I), device=place_I.device)
        leaf_N = torch.arange(len(count_N), device=place_I.device) // len(ranges)
        leaf_I = leaf_N.repeat_interleave(count_N)
        if not filter_.is_trivial:
            alive_I = filter_.item_alive(place_I, 0 * place_I)
            place_I, leaf_I = place_I[alive_I], leaf_I[alive_I]
        self._item = index.item_of_place[place_I].int()
        count_F = torch.bincount(leaf_I, minlength=len(leaf_F))
        self._most_items = int(count_F.max())
        self._first_place = [_starts(count_F)]
        for start in self._start[:0:-1]:  # a node's first item is its first child's
            self._first_place.insert(0, self._first_place[0][start])
        # Items that are not here lie behind all others, where no node has any.
        place_of_item = torch.full((index.num_items,), len(self._item), device=leaf_F.device)
        place_of_item[self._item.long()] = torch.arange(len(self._item), device=leaf_F.device)
        self._place_of_item = place_of_item.int()


def _starts(count_R: Tensor) -> Tensor:
    """(R + 1,) first child of each row, and the number of all."""
    return torch.nn.functional.pad(count_R.cumsum(0), (1, 0)).int()


def _range(start: Tensor, node_BW: Tensor) -> tuple[Tensor, Tensor]:
    return start[node_BW].long().unsqueeze(-1), start[node_BW + 1].long().unsqueeze(-1)


def _between(excluded_BE: Tensor, low_BN: Tensor, high_BN: Tensor) -> Tensor:
    """(B, N) how many excluded places lie in [low, high)."""
    low, high = (x.to(excluded_BE.dtype).contiguous() for x in (low_BN, high_BN))
    return torch.searchsorted(excluded_BE, high) - torch.searchsorted(excluded_BE, low)
