"""A trie with additions and retired items, searched as if it were one trie built anew.

Nodes are numbered as in the trie of all items (see `delta`), so children are neighbours here too,
equal scores go to the lower SID as ever, and no result depends on whether an item is already part
of the main trie. Only places differ: the added items' come after all others, so that a node's items
lie in two ranges.

Shape letters: D added items, I items, P places, R rows (nodes asked for), C children of all rows,
J new children of all rows, N nodes of any shape.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from dasrec.generative.decoding.allowed import Allowed
from dasrec.generative.decoding.delta import Delta
from dasrec.generative.decoding.index import Children
from dasrec.generative.decoding.trie import SidTrie


@dataclass(frozen=True, eq=False)
class GrownTrie:
    """A `SidIndex` of a trie, what was added to it, and what was retired."""

    main: SidTrie
    delta: Delta | None = None
    """None where nothing was added: then everything is the main trie's own."""
    enabled_mask: Tensor | None = None
    """(I,) bool the items that are not retired, on the trie's device; None if none is."""

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """K of each of the L levels."""
        return self.main.level_sizes

    @property
    def level_token_ids(self) -> tuple[Tensor, ...]:
        """L tensors (K,) int64: code -> vocabulary id."""
        return self.main.level_token_ids

    @cached_property
    def level_padded(self) -> tuple[bool, ...]:
        """Per level whether any of its nodes is padding of a short SID."""
        padded = self.main.level_padded
        if self.delta is None:
            return padded
        return tuple(
            old or bool((new.code == size).any())
            for old, new, size in zip(padded, self.delta.levels, self.level_sizes, strict=True)
        )

    @property
    def max_branch(self) -> tuple[int, ...]:
        """Most children of any node, per level."""
        return self.main.max_branch if self.delta is None else self.delta.max_branch

    @property
    def num_levels(self) -> int:
        """L."""
        return self.main.num_levels

    @property
    def num_added(self) -> int:
        """D."""
        return 0 if self.delta is None else len(self.delta.item)

    @property
    def num_items(self) -> int:
        """I."""
        return self.main.num_items + self.num_added

    @property
    def num_places(self) -> int:
        """P = I."""
        return self.num_items

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.main.device

    @cached_property
    def item_of_place(self) -> Tensor:
        """(P,) int32 item index at each place."""
        if self.delta is None:
            return self.main.item_of_place
        return torch.cat([self.main.item_of_place, self.delta.item])

    @cached_property
    def place_of_item(self) -> Tensor:
        """(I,) int32 place of each item."""
        if self.delta is None:
            return self.main.place_of_item
        places = self.delta.item.argsort().int() + self.main.num_places
        return torch.cat([self.main.place_of_item, places])

    @cached_property
    def enabled(self) -> Allowed | None:
        """The items that are not retired; None if none is."""
        return None if self.enabled_mask is None else Allowed.counted(self, self.enabled_mask)

    def to(self, device: torch.device | str) -> "GrownTrie":
        """The same trie on `device`."""
        if torch.device(device) == self.device:
            return self
        return replace(
            self,
            main=self.main.to(device),
            delta=None if self.delta is None else self.delta.to(device),
            enabled_mask=None if self.enabled_mask is None else self.enabled_mask.to(device),
        )

    def children(self, level: int, node_R: Tensor) -> Children:
        """Nodes of `level` below nodes of the level before; level 0 is below a root, node 0."""
        if self.delta is None:
            return self.main.children(level, node_R)
        new, main_tok = self.delta.levels[level], self.main.tok[level]
        node_R = node_R.contiguous()  # searchsorted wants it so
        main_low_R, main_high_R = self._main_children(level, node_R)
        new_low_R = torch.searchsorted(new.parent, node_R)
        new_count_R = torch.searchsorted(new.parent, node_R, right=True) - new_low_R
        low_R, count_R = main_low_R + new_low_R, main_high_R - main_low_R + new_count_R

        row_C = torch.repeat_interleave(count_R)
        first_R = count_R.cumsum(0) - count_R  # of each row in the result
        node_C = torch.arange(len(row_C), device=row_C.device)
        node_C += (low_R - first_R).index_select(0, row_C)
        row_J = torch.repeat_interleave(new_count_R)
        new_first_R = new_count_R.cumsum(0) - new_count_R
        which_J = torch.arange(len(row_J), device=row_J.device) + (new_low_R - new_first_R)[row_J]
        at_J = new.node[which_J] + (first_R - low_R)[row_J]  # places of new children in the result

        is_new_C = torch.zeros_like(row_C)
        is_new_C[at_J] = 1
        new_before_C = is_new_C.cumsum(0)
        new_before_C += (new_low_R - new_first_R).index_select(0, row_C)
        main_C = (node_C - new_before_C).clamp_(min=0, max=len(main_tok) - 1)
        code_C = main_tok.index_select(0, main_C).long()
        code_C[at_J] = new.code[which_J]
        return Children(node_C, code_C, row_C, count_R)

    def _main_children(self, level: int, node_R: Tensor) -> tuple[Tensor, Tensor]:
        """(R,) range of the main trie's nodes among the children."""
        if level == 0:
            return torch.zeros_like(node_R), torch.full_like(node_R, len(self.main.tok[0]))
        assert self.delta is not None
        above, starts = self.delta.levels[level - 1], self.main.child_start[level - 1]
        return starts[above.main_before(node_R)], starts[above.main_before(node_R + 1)]

    def place_ranges(self, level: int, node_N: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """(N,) range of places of the main trie's items below each node, and of added ones."""
        if self.delta is None:
            return self.main.place_ranges(level, node_N)
        new, node_N = self.delta.levels[level], node_N.contiguous()
        main_N = new.main_before(node_N)
        is_new_N = new.main_before(node_N + 1) == main_N
        main_N = main_N.clamp(max=len(self.main.tok[level]) - 1)
        ((low_N, high_N),) = self.main.place_ranges(level, main_N)
        high_N = torch.where(is_new_N, low_N, high_N)
        added_low_N = torch.searchsorted(new.item_node, node_N) + self.main.num_places
        added_high_N = torch.searchsorted(new.item_node, node_N, right=True) + self.main.num_places
        return (low_N, high_N), (added_low_N, added_high_N)
