"""What additions change in a prefix tree: the nodes that a trie lacks, and where they belong.

The union of trie and additions is numbered as a trie built of both would be: node n of a level is
its n-th prefix in sorted order. A node of the main trie moves up by the new nodes before it.

Shape letters: D added items, L levels, M new nodes of a level, N nodes of any shape.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dasrec.generative.decoding.trie import SidTrie


@dataclass(frozen=True, eq=False)
class NewNodes:
    """The nodes of one level that the main trie lacks, in the order of their prefixes."""

    node: Tensor
    """(M,) int64 number in the union, rising."""
    parent: Tensor
    """(M,) int64 number in the union of the node above, not falling; 0 at level 0."""
    code: Tensor
    """(M,) int64 last code."""
    item_node: Tensor
    """(D,) int64 node in the union above each added item, not falling."""

    def main_before(self, node_N: Tensor) -> Tensor:
        """(N,) nodes of the main trie that come before nodes of the union."""
        return node_N - torch.searchsorted(self.node, node_N)

    def to(self, device: torch.device | str) -> "NewNodes":
        """The same on `device`."""
        tensors = (self.node, self.parent, self.code, self.item_node)
        return NewNodes(*(t.to(device) for t in tensors))


@dataclass(frozen=True, eq=False)
class Delta:
    """D added items and the nodes that are new with them."""

    levels: tuple[NewNodes, ...]
    """L levels."""
    item: Tensor
    """(D,) int32 item indices in the order of their SIDs, those of one SID as they were added."""
    max_branch: tuple[int, ...]
    """Most children of any node of the union, per level."""

    def to(self, device: torch.device | str) -> "Delta":
        """The same on `device`."""
        levels = tuple(level.to(device) for level in self.levels)
        return Delta(levels, self.item.to(device), self.max_branch)


def build_delta(main: SidTrie, codes_DL: Tensor, item_D: Tensor) -> Delta:
    """Find the new nodes of added items.

    Args:
        main: The trie they are added to.
        codes_DL: (D, L) int64 codes in sorted order, K for the padding of short SIDs; D > 0.
        item_D: (D,) item index of each row.

    Raises:
        ValueError: SIDs of which one begins another.
    """
    num_added = len(codes_DL)
    above = torch.zeros(num_added, dtype=torch.int64, device=main.device)  # node in the union
    at = torch.zeros_like(above)  # main nodes before the prefix
    exists = torch.ones(num_added, dtype=torch.bool, device=main.device)  # in the main trie
    changed = torch.zeros_like(exists)  # the prefix differs from that of the item before
    changed[0] = True
    levels, max_branch = [], []
    for level in range(main.num_levels):
        code = codes_DL[:, level].contiguous()
        changed[1:] |= code[1:] != code[:-1]
        low, high = _children_in_main(main, level, at, exists)
        at = _lower_bound(main.tok[level], low, high, code)
        found = at.clamp(max=len(main.tok[level]) - 1)
        exists = exists & (at < high) & (main.tok[level][found].long() == code)
        first = (changed & ~exists).nonzero().squeeze(1)
        before = at[first]
        node = before + torch.arange(len(first), device=at.device)
        own = node[((changed & ~exists).cumsum(0) - 1).clamp(min=0)] if len(first) else at
        item_node = torch.where(exists, at + torch.searchsorted(before, at, right=True), own)
        new = NewNodes(node, above[first], code[first], item_node)
        branch = _check(main, level, new, (high - low)[first], high[first], item_D[first])
        max_branch.append(max(branch, main.max_branch[level]))
        levels.append(new)
        above = item_node
    return Delta(tuple(levels), item_D.int(), tuple(max_branch))


def _children_in_main(
    main: SidTrie, level: int, at_D: Tensor, exists_D: Tensor
) -> tuple[Tensor, Tensor]:
    """(D,) range of nodes of `level` below each prefix; empty, in its place, below a new one."""
    if level == 0:
        return torch.zeros_like(at_D), torch.full_like(at_D, len(main.tok[0]))
    starts = main.child_start[level - 1]
    return starts[at_D], starts[at_D + exists_D.long()]


def _lower_bound(sorted_N: Tensor, low_D: Tensor, high_D: Tensor, value_D: Tensor) -> Tensor:
    """(D,) first place in low..high, where `sorted_N` rises, of a number not below the value."""
    steps = int((high_D - low_D).max()).bit_length()
    for _ in range(steps):
        middle = (low_D + high_D) // 2
        below = (low_D < high_D) & (sorted_N[middle.clamp(max=len(sorted_N) - 1)] < value_D)
        high_D = torch.where(below, high_D, middle)
        low_D = torch.where(below, middle + 1, low_D)
    return low_D


def _check(
    main: SidTrie,
    level: int,
    new: NewNodes,
    main_count_M: Tensor,
    main_high_M: Tensor,
    item_M: Tensor,
) -> int:
    """Most children of any node with new ones.

    Raises:
        ValueError: One of them is the padding of a short SID, and others go on.
    """
    if not len(new.node):
        return 0
    first_M = torch.searchsorted(new.parent, new.parent)
    end_M = torch.searchsorted(new.parent, new.parent, right=True)
    count_M = main_count_M + end_M - first_M
    padding = main.level_sizes[level]
    last_in_main = main.tok[level][(main_high_M - 1).clamp(min=0)].long()  # 256 is no uint8
    ended_M = (new.code[end_M - 1] == padding) | ((main_count_M > 0) & (last_in_main == padding))
    wrong_M = ended_M & (count_M > 1)
    if wrong_M.any():
        raise ValueError(
            f"codes: the SID of added item {int(item_M[wrong_M][0])} begins that of another item,"
            " or another SID begins it; give SIDs of which none begins another"
        )
    return int(count_M.max())
