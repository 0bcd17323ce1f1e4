"""A catalogue numbered anew, so that one level's children are read with a fixed shape.

Shape letters: L levels, N nodes of a level, C children, M most children of a node, F leaves,
I items, B users, W beams.
"""

from typing import NamedTuple

import torch
from torch import Tensor

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

    Nodes of a level are numbered in the order of SIDs, children of a node are neighbours. Unlike
    `SidIndex.children`, no shape depends on what the tensors hold.
    """

    def __init__(self, index: SidIndex) -> None:
        """Copy an index to where it lies."""
        self.level_token_ids = index.level_token_ids
        self.level_padded = index.level_padded
        self.branch: list[int] = []
        self._code: list[Tensor] = []
        self._start: list[Tensor] = []
        node_N = torch.zeros(1, dtype=torch.int64, device=index.device)
        for level in range(index.num_levels):
            node_C, code_C, row_C, count_R = index.children(level, node_N)
            order_C = (row_C * (len(index.level_token_ids[level]) + 1) + code_C).argsort()
            node_N = node_C[order_C]
            self._code.append(code_C[order_C].int())
            self._start.append(_starts(count_R))
            self.branch.append(int(count_R.max()))
        self._place_items(index, node_N)

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

    def items(self, leaf_BW: Tensor) -> Tensor:
        """(B, W, M) items of leaves, in the index's order, -1 where there are no more."""
        low_BW1, high_BW1 = _range(self._item_start, leaf_BW)
        place_BWM = low_BW1 + torch.arange(self._most_items, device=leaf_BW.device)
        item_BWM = self._item[place_BWM.clamp(max=len(self._item) - 1)].long()
        return item_BWM.masked_fill_(place_BWM >= high_BW1, -1)

    def _place_items(self, index: SidIndex, leaf_F: Tensor) -> None:
        ranges = index.place_ranges(index.num_levels - 1, leaf_F)
        low_N = torch.stack([low for low, _ in ranges], 1).flatten()
        count_N = torch.stack([high - low for low, high in ranges], 1).flatten()
        first_N = count_N.cumsum(0) - count_N
        place_I = (low_N - first_N).repeat_interleave(count_N)
        place_I = place_I + torch.arange(len(place_I), device=place_I.device)
        self._item = index.item_of_place[place_I].int()
        count_F = count_N.view(len(leaf_F), -1).sum(1)
        self._item_start = _starts(count_F)
        self._most_items = int(count_F.max())


def _starts(count_R: Tensor) -> Tensor:
    """(R + 1,) first child of each row, and the number of all."""
    return torch.nn.functional.pad(count_R.cumsum(0), (1, 0)).int()


def _range(start: Tensor, node_BW: Tensor) -> tuple[Tensor, Tensor]:
    return start[node_BW].long().unsqueeze(-1), start[node_BW + 1].long().unsqueeze(-1)
