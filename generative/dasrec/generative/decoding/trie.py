"""The prefix tree of the items' semantic IDs, as flat tensors.

Node n of a level is the n-th distinct prefix of that length in sorted order. So the children of a
node are neighbours (child = `child_start[node] + offset`, no next-state table), and so are the
items below it: any predicate on items becomes a prefix sum (see `filters`).

Shape letters: I items, L levels, K codes of a level, N nodes of a level, F leaves (distinct SIDs),
R rows (nodes asked for), C children of all rows one after another.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dasrec.generative.decoding.index import Children
from dasrec.generative.decoding.offsets import Offsets
from dasrec.generative.decoding.trie_build import Tree, build_tree
from dasrec.generative.decoding.trie_check import checked_codes, checked_tables
from dasrec.generative.decoding.trie_file import read_trie, write_trie

ArrayLike = npt.ArrayLike | Tensor


@dataclass(frozen=True, eq=False)
class SidTrie:
    """Which semantic IDs exist, and whose they are; a `SidIndex` that never changes."""

    level_sizes: tuple[int, ...]
    """K of each of the L levels, the end code included where there is one."""
    level_token_ids: tuple[Tensor, ...]
    """L tensors (K,) int64: code -> vocabulary id."""
    level_padded: tuple[bool, ...]
    """Per level whether any of its nodes is padding of a short SID."""
    max_branch: tuple[int, ...]
    """Most children of any node, per level; entry 0 is the number of level-0 nodes."""
    tok: tuple[Tensor, ...]
    """L tensors (N,) uint8, int16 or int32: the last code of each node, K for padding."""
    child_start: tuple[Offsets, ...]
    """L-1 times N ranges: children of node n are `child_start[n]` to `child_start[n + 1]`."""
    place_start: tuple[Offsets | None, ...]
    """L times N ranges: places of the items below node n; None where place n is node n's."""
    item_of_place: Tensor
    """(I,) int32 item indices sorted by SID, then falling popularity, then index."""
    place_of_item: Tensor
    """(I,) int32 place of each item."""
    fingerprint: str = ""
    """Checksum of the SemanticIds the trie was built from."""
    has_end: bool = False
    """Whether short SIDs end in a code of their own, the last of every level but the first."""

    @classmethod
    def from_sids(
        cls,
        codes: ArrayLike,
        level_sizes: Sequence[int],
        level_token_ids: Sequence[ArrayLike],
        popularity: ArrayLike | None = None,
        fingerprint: str = "",
        *,
        end_token_id: int | None = None,
    ) -> "SidTrie":
        """Build the trie of a catalogue.

        SIDs may be shorter than L. With `end_token_id` each of them ends in that token: the levels
        after the first get one more code for it, which counts as any other. Without, none may
        begin another, and that a SID has ended goes without saying: with probability 1.

        Args:
            codes: (I, L) integer codes, short SIDs padded with -1; several items may share a SID.
            level_sizes: K of each level.
            level_token_ids: Per level (K,) vocabulary id of each code; any ids, in any order.
            popularity: (I,) the order of items that share a SID, most popular first.
            fingerprint: Of the SemanticIds; kept by `save` and checked by `load`.
            end_token_id: Vocabulary id of the token after a short SID.

        Raises:
            ValueError: No items, shapes that do not fit, a code outside its level, or a SID that
                begins another where there is no end token.
        """
        sizes, tables = checked_tables(level_sizes, level_token_ids, end_token_id)
        has_end = end_token_id is not None
        codes_IL = checked_codes(codes, sizes, has_end=has_end)
        tree = build_tree(codes_IL, sizes, popularity, has_end=has_end)
        return assemble(sizes, tables, tree, fingerprint, has_end)

    @property
    def num_levels(self) -> int:
        """L."""
        return len(self.level_sizes)

    @property
    def num_items(self) -> int:
        """I."""
        return len(self.item_of_place)

    @property
    def num_places(self) -> int:
        """I: one place per item."""
        return len(self.item_of_place)

    @property
    def num_leaves(self) -> int:
        """F, the number of distinct SIDs."""
        return len(self.tok[-1])

    @property
    def enabled(self) -> None:
        """No predicate: every item of a trie may be returned."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.item_of_place.device

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        tensors = (*self.level_token_ids, *self.tok, self.item_of_place, self.place_of_item)
        offsets = {id(o): o.nbytes for o in (*self.child_start, *self.place_start) if o is not None}
        return sum(t.nbytes for t in tensors) + sum(offsets.values())

    def describe(self) -> dict[str, Any]:
        """Counts and sizes, for a log or a report."""
        return {
            "items": self.num_items,
            "sids": self.num_leaves,
            "nodes": [len(tok) for tok in self.tok],
            "max_branch": list(self.max_branch),
            "bytes": self.nbytes,
            "bytes_per_item": self.nbytes / self.num_items,
        }

    def children(self, level: int, node_R: Tensor) -> Children:
        """Nodes of `level` below nodes of the level before; level 0 is below a root, node 0."""
        if level:
            starts = self.child_start[level - 1]
            low_R = starts[node_R]
            count_R = starts[node_R + 1] - low_R
        else:
            low_R, count_R = torch.zeros_like(node_R), torch.full_like(node_R, len(self.tok[0]))
        row_C = torch.repeat_interleave(count_R)
        shift_R = low_R - count_R.cumsum(0) + count_R  # from a child's place in the result
        node_C = torch.arange(len(row_C), device=row_C.device)
        node_C += shift_R.index_select(0, row_C)
        code_C = self.tok[level].index_select(0, node_C).long()
        return Children(node_C, code_C, row_C, count_R)

    def place_ranges(self, level: int, node_N: Tensor) -> tuple[tuple[Tensor, Tensor]]:
        """(N,) first and one-past-last place of the items below nodes of `level` (from 0)."""
        starts = self.place_start[level]
        if starts is None:
            return ((node_N, node_N + 1),)
        return ((starts[node_N], starts[node_N + 1]),)

    def items_of_leaf(self, leaf: int) -> Tensor:
        """Item indices that share one SID, most popular first."""
        ((low, high),) = self.place_ranges(self.num_levels - 1, torch.tensor(leaf))
        return self.item_of_place[int(low) : int(high)].long()

    def leaf_nodes(self, level: int) -> Tensor:
        """(F,) node of `level` (from 0) above every leaf, in order."""
        node_F = torch.arange(self.num_leaves, device=self.device)
        for starts in reversed(self.child_start[level:]):
            node_F = torch.repeat_interleave(starts.dense().diff())[node_F]
        return node_F

    def leaf_codes(self) -> Tensor:
        """(F, L) codes of every leaf, in order; K for padding."""
        return torch.stack([t[self.leaf_nodes(i)].long() for i, t in enumerate(self.tok)], dim=1)

    def to(self, device: torch.device | str) -> "SidTrie":
        """The same trie on `device`."""
        if torch.device(device) == self.device:
            return self
        starts = {
            id(o): o.to(device) for o in (*self.child_start, *self.place_start) if o is not None
        }
        return replace(
            self,
            level_token_ids=tuple(t.to(device) for t in self.level_token_ids),
            tok=tuple(t.to(device) for t in self.tok),
            child_start=tuple(starts[id(o)] for o in self.child_start),
            place_start=tuple(None if o is None else starts[id(o)] for o in self.place_start),
            item_of_place=self.item_of_place.to(device),
            place_of_item=self.place_of_item.to(device),
        )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all."""
        write_trie(path, *self.contents())

    def contents(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Header and tensors of the file.

        The tensors are `level_token_ids.l`, `tok.l`, `child_start.l`, `item_of_place`, and
        `item_start` where items share SIDs (of leaf f the places
        `item_start[f]:item_start[f + 1]`).
        """
        tensors = {"item_of_place": self.item_of_place}
        for level, (table, tok) in enumerate(zip(self.level_token_ids, self.tok, strict=True)):
            tensors |= {f"level_token_ids.{level}": table, f"tok.{level}": tok}
        for level, starts in enumerate(self.child_start):
            tensors[f"child_start.{level}"] = starts.dense().int()
        if self.place_start[-1] is not None:
            tensors["item_start"] = self.place_start[-1].dense().int()
        header = {
            "level_sizes": self.level_sizes,
            "fingerprint": self.fingerprint,
            "has_end": self.has_end,
        }
        return header, tensors

    @classmethod
    def load(cls, path: str | Path, fingerprint: str | None = None) -> "SidTrie":
        """Read a trie back.

        Args:
            path: What `save` wrote.
            fingerprint: The SemanticIds it has to be of, if that is to be checked.

        Raises:
            ValueError: Not a trie, a damaged one, or one of other semantic IDs.
        """
        header, tensors = read_trie(path)
        if fingerprint is not None and header["fingerprint"] != fingerprint:
            raise ValueError(
                f"{path}: trie of other semantic IDs, got {header['fingerprint']!r} instead of"
                f" {fingerprint!r}; build it again"
            )
        if "enabled" in tensors:
            raise ValueError(
                f"{path}: a catalogue, not a trie; read it with Catalogue.load, which knows what is"
                " retired"
            )
        return cls.from_contents(header, tensors)

    @classmethod
    def from_contents(cls, header: dict[str, Any], tensors: dict[str, Tensor]) -> "SidTrie":
        """The trie that `contents` describes."""
        sizes = tuple(header["level_sizes"])
        tree = Tree(
            tok=[tensors[f"tok.{level}"].numpy() for level in range(len(sizes))],
            child_start=[
                tensors[f"child_start.{level}"].numpy() for level in range(len(sizes) - 1)
            ],
            item_start=tensors["item_start"].numpy() if "item_start" in tensors else None,
            item_of_place=tensors["item_of_place"].numpy(),
        )
        tables = tuple(tensors[f"level_token_ids.{level}"] for level in range(len(sizes)))
        return assemble(sizes, tables, tree, header["fingerprint"], header["has_end"])


def assemble(
    sizes: tuple[int, ...],
    tables: tuple[Tensor, ...],
    tree: Tree,
    fingerprint: str,
    has_end: bool,
) -> SidTrie:
    """Compress the arrays and add what follows from them."""
    child_start = tuple(Offsets.of(starts) for starts in tree.child_start)
    below = tree.item_start
    place_start = [None if below is None else Offsets.of(below)]
    for starts, compressed in zip(tree.child_start[::-1], child_start[::-1], strict=True):
        place_start.append(compressed if below is None else Offsets.of(below[starts]))
        below = starts if below is None else below[starts]
    place_of_item = np.empty_like(tree.item_of_place)
    place_of_item[tree.item_of_place] = np.arange(len(place_of_item), dtype=np.int32)
    return SidTrie(
        level_sizes=sizes,
        level_token_ids=tables,
        level_padded=tuple(
            bool((tok == size).any()) for tok, size in zip(tree.tok, sizes, strict=True)
        ),
        max_branch=(len(tree.tok[0]), *(int(np.diff(s).max()) for s in tree.child_start)),
        tok=tuple(torch.from_numpy(tok) for tok in tree.tok),
        child_start=child_start,
        place_start=tuple(place_start[::-1]),
        item_of_place=torch.from_numpy(tree.item_of_place),
        place_of_item=torch.from_numpy(place_of_item),
        fingerprint=fingerprint,
        has_end=has_end,
    )
