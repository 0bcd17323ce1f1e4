"""From items to their nodes, and from leaves to their items.

Shape letters: N items, L levels, R leaves, D places of all leaves one after another.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dasrec.generative.decoding.index import SidIndex


class Paths(NamedTuple):
    """Where items lie in the tree."""

    node_NL: Tensor
    """(N, L) int64"""
    code_NL: Tensor
    """(N, L) int64; `level_sizes[level]` for padding of a short SID"""


def item_paths(index: SidIndex, item_N: Tensor) -> Paths:
    """Nodes and codes of some items: of a node's children, the one whose places hold the item's."""
    place_N = index.place_of_item[item_N].long()
    node_N = torch.zeros_like(place_N)
    nodes, codes = [], []
    for level in range(index.num_levels):
        children = index.children(level, torch.unique(node_N))
        ranges = index.place_ranges(level, children.node_C)
        low = torch.cat([low_C for low_C, _ in ranges])
        real = low < torch.cat([high_C for _, high_C in ranges])
        low, order = low.masked_fill(~real, index.num_places).sort()  # ranges do not overlap
        child_N = order[torch.searchsorted(low, place_N, right=True) - 1] % len(children.node_C)
        node_N = children.node_C[child_N]
        nodes.append(node_N)
        codes.append(children.code_C[child_N])
    return Paths(torch.stack(nodes, -1), torch.stack(codes, -1))


def leaf_places(index: SidIndex, leaf_R: Tensor) -> tuple[Tensor, Tensor]:
    """(D,) number of the leaf and (D,) place of every item of some leaves."""
    rows, places = [], []
    for low_R, high_R in index.place_ranges(index.num_levels - 1, leaf_R):
        count_R = high_R - low_R
        row_D = torch.repeat_interleave(count_R)
        first_R = low_R - count_R.cumsum(0) + count_R
        rows.append(row_D)
        places.append(torch.arange(len(row_D), device=row_D.device) + first_R[row_D])
    return torch.cat(rows), torch.cat(places)
