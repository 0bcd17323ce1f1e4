"""What the search and the filters need of a catalogue: the prefix tree of its semantic IDs.

`SidTrie` is one that never changes, `GrownTrie` one with additions. A node of level l stands for a
prefix of l + 1 codes; its number means nothing outside its index. A place is a position in an order
of the items that keeps the items below a node together, so that a predicate on items becomes a
prefix sum over places (see `filters`).

A SID shorter than L ends in padding: below its last node every level has one node with the code
`level_sizes[level]`, one beyond the level's codes. Such a code has no token and probability 1.

Shape letters: L levels, K codes of a level, R rows (nodes asked for), C children of all rows one
after another, I items, P places, N nodes of any shape.
"""

from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dasrec.generative.decoding.allowed import Allowed


class Children(NamedTuple):
    """The children of R nodes, row after row, without padding."""

    node_C: Tensor
    """(C,) int64"""
    code_C: Tensor
    """(C,) int64 last code of the child; `level_sizes[level]` for padding of a short SID"""
    row_C: Tensor
    """(C,) int64 the row, not decreasing; within a row children come in any order"""
    count_R: Tensor
    """(R,) int64 children of each row"""


class SidIndex(Protocol):
    """A catalogue as a prefix tree; nothing in it changes while a search runs."""

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """K of each of the L levels, the end code included where there is one."""

    @property
    def level_token_ids(self) -> tuple[Tensor, ...]:
        """L tensors (K,) int64: code -> vocabulary id."""

    @property
    def level_padded(self) -> tuple[bool, ...]:
        """Per level whether any of its nodes is padding of a short SID."""

    @property
    def max_branch(self) -> tuple[int, ...]:
        """Most children of any node, per level; entry 0 is the number of level-0 nodes."""

    @property
    def num_levels(self) -> int:
        """L."""

    @property
    def num_items(self) -> int:
        """I."""

    @property
    def num_places(self) -> int:
        """P."""

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""

    @property
    def item_of_place(self) -> Tensor:
        """(P,) int32 item index at each place."""

    @property
    def place_of_item(self) -> Tensor:
        """(I,) int32 place of each item."""

    @property
    def enabled(self) -> "Allowed | None":
        """The items that are not retired; None if none is."""

    def to(self, device: torch.device | str) -> "SidIndex":
        """The same index on `device`."""

    def children(self, level: int, node_R: Tensor) -> Children:
        """Nodes of `level` below nodes of the level before; level 0 is below a root, node 0."""

    def place_ranges(self, level: int, node_N: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """Ranges [low, high) of places, each (N,) int64, that hold the items below the nodes.

        The items of one SID are returned in this order. A plain trie has one range per node, one
        with additions two.
        """
