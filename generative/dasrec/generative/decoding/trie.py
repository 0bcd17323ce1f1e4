"""The prefix tree of the items' semantic IDs, as flat tensors.

Node n of a level is the n-th distinct prefix of that length in sorted order. So the children of a
node are neighbours (child = `child_start[node] + offset`, no next-state table), and so are the
leaves and the items below it: any predicate on items becomes a prefix sum (see `filters`).

Shape letters: I items, L levels, K codes of a level, N nodes of a level, F leaves (distinct SIDs),
R rows of any batch shape, C children (padded to the most of the rows asked for).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

ArrayLike = npt.ArrayLike | Tensor


@dataclass(frozen=True, eq=False)
class SidTrie:
    """Which semantic IDs exist, and whose they are."""

    level_sizes: tuple[int, ...]
    """K of each of the L levels."""
    level_token_ids: tuple[Tensor, ...]
    """L tensors (K,) int64: code -> vocabulary id."""
    tok: tuple[Tensor, ...]
    """L tensors (N,) int16 or int32: the last code of each node."""
    child_start: tuple[Tensor, ...]
    """L-1 tensors (N + 1,) int32: children of node n are `child_start[n]:child_start[n + 1]`."""
    leaf_lo: tuple[Tensor, ...]
    """L-1 tensors (N + 1,) int32: leaves below node n are `leaf_lo[n]:leaf_lo[n + 1]`."""
    item_start: Tensor
    """(F + 1,) int32: items of leaf f are `item_order[item_start[f]:item_start[f + 1]]`."""
    item_order: Tensor
    """(I,) int32 item indices sorted by SID, then falling popularity, then index."""
    max_branch: tuple[int, ...]
    """Most children of any node, per level; entry 0 is the number of level-0 nodes."""
    fingerprint: str = ""
    """Checksum of the SemanticIds the trie was built from."""

    @classmethod
    def from_sids(
        cls,
        codes: ArrayLike,
        level_sizes: Sequence[int],
        level_token_ids: Sequence[ArrayLike],
        popularity: ArrayLike | None = None,
        fingerprint: str = "",
    ) -> "SidTrie":
        """Build the trie of a catalogue.

        Args:
            codes: (I, L) integer codes; several items may share a SID.
            level_sizes: K of each level.
            level_token_ids: Per level (K,) vocabulary id of each code; any ids, in any order.
            popularity: (I,) the order of items that share a SID, most popular first.
            fingerprint: Of the SemanticIds; kept by `save` and checked by `load`.

        Raises:
            ValueError: No items, shapes that do not fit, or a code outside its level.
        """
        codes_IL = np.asarray(codes).astype(np.int64)
        sizes = tuple(int(size) for size in level_sizes)
        tokens = tuple(torch.as_tensor(np.asarray(t), dtype=torch.int64) for t in level_token_ids)
        _check(codes_IL, sizes, tokens)
        num_items, num_levels = codes_IL.shape
        rank = np.zeros(num_items) if popularity is None else -np.asarray(popularity, np.float64)
        if rank.shape != (num_items,):
            raise ValueError(f"popularity: one number per item needed, got shape {rank.shape}")
        order = np.lexsort((rank, *codes_IL.T[::-1]))  # the last key sorts first; ties keep index
        sorted_IL = codes_IL[order]

        changed = np.ones((num_items, num_levels), bool)  # first item of a new prefix of length l+1
        changed[1:] = np.logical_or.accumulate(sorted_IL[1:] != sorted_IL[:-1], axis=1)
        first = [np.flatnonzero(changed[:, level]) for level in range(num_levels)]
        ends = [np.append(rows, num_items) for rows in first]
        child_start = [np.searchsorted(first[i + 1], ends[i]) for i in range(num_levels - 1)]
        leaf_lo = [np.searchsorted(first[-1], ends[i]) for i in range(num_levels - 1)]
        return cls(
            level_sizes=sizes,
            level_token_ids=tokens,
            tok=tuple(
                torch.from_numpy(
                    sorted_IL[rows, level].astype(np.int16 if sizes[level] <= 2**15 else np.int32)
                )
                for level, rows in enumerate(first)
            ),
            child_start=tuple(torch.from_numpy(a.astype(np.int32)) for a in child_start),
            leaf_lo=tuple(torch.from_numpy(a.astype(np.int32)) for a in leaf_lo),
            item_start=torch.from_numpy(ends[-1].astype(np.int32)),
            item_order=torch.from_numpy(order.astype(np.int32)),
            max_branch=(len(first[0]), *(int(np.diff(starts).max()) for starts in child_start)),
            fingerprint=fingerprint,
        )

    @property
    def num_levels(self) -> int:
        """L."""
        return len(self.level_sizes)

    @property
    def num_items(self) -> int:
        """I."""
        return len(self.item_order)

    @property
    def num_leaves(self) -> int:
        """F, the number of distinct SIDs."""
        return len(self.item_start) - 1

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.item_order.device

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.numel() * t.element_size() for t in self._tensors().values())

    @cached_property
    def item_position(self) -> Tensor:
        """(I,) int64 place of each item in `item_order`."""
        order = self.item_order.long()
        return torch.empty_like(order).scatter_(
            0, order, torch.arange(len(order), device=self.device)
        )

    def children(self, level: int, node_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Nodes of `level` (from 1) below the nodes `node_R` of the level before.

        Returns:
            (R, C) child nodes, their codes, and which of them are real; padding repeats some
            node of the level.
        """
        starts = self.child_start[level - 1]
        low_R1 = starts[node_R].long().unsqueeze(-1)
        count_R1 = starts[node_R + 1].long().unsqueeze(-1) - low_R1
        offset_C = torch.arange(max(1, int(count_R1.max())), device=node_R.device)
        child_RC = (low_R1 + offset_C).clamp_(max=len(self.tok[level]) - 1)
        return child_RC, self.tok[level][child_RC].long(), offset_C < count_R1

    def leaf_range(self, level: int, node_R: Tensor) -> tuple[Tensor, Tensor]:
        """(R,) first and one-past-last leaf below nodes of `level` (from 0)."""
        if level == self.num_levels - 1:
            return node_R, node_R + 1
        return self.leaf_lo[level][node_R].long(), self.leaf_lo[level][node_R + 1].long()

    def item_range(self, level: int, node_R: Tensor) -> tuple[Tensor, Tensor]:
        """(R,) range of places in `item_order` below nodes of `level` (from 0)."""
        low_R, high_R = self.leaf_range(level, node_R)
        return self.item_start[low_R].long(), self.item_start[high_R].long()

    def items_of_leaf(self, leaf: int) -> Tensor:
        """Item indices that share one SID, most popular first."""
        low, high = self.item_start[leaf : leaf + 2].tolist()
        return self.item_order[low:high].long()

    def leaf_nodes(self, level: int) -> Tensor:
        """(F,) node of `level` (from 0) above every leaf, in order."""
        leaf_F = torch.arange(self.num_leaves, device=self.device)
        if level == self.num_levels - 1:
            return leaf_F
        low = self.leaf_lo[level]
        return torch.searchsorted(low, leaf_F.to(low.dtype), right=True) - 1

    def leaf_codes(self) -> Tensor:
        """(F, L) codes of every leaf, in order."""
        return torch.stack([t[self.leaf_nodes(i)].long() for i, t in enumerate(self.tok)], dim=1)

    def to(self, device: torch.device | str) -> "SidTrie":
        """The same trie on `device`."""
        if torch.device(device) == self.device:
            return self
        return _from_tensors(self, {k: t.to(device) for k, t in self._tensors().items()})

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        header = {
            "level_sizes": self.level_sizes,
            "max_branch": self.max_branch,
            "fingerprint": self.fingerprint,
        }
        # One entry: safetensors writes several in an order that differs from call to call.
        metadata = {"trie": json.dumps(header)}
        save_file({k: t.contiguous() for k, t in self._tensors().items()}, path, metadata)

    @classmethod
    def load(cls, path: str | Path, fingerprint: str | None = None) -> "SidTrie":
        """Read a trie back.

        Args:
            path: What `save` wrote.
            fingerprint: The SemanticIds it has to be of, if that is to be checked.

        Raises:
            ValueError: The trie is of other semantic IDs.
        """
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["trie"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if fingerprint is not None and header["fingerprint"] != fingerprint:
            raise ValueError(
                f"{path}: trie of other semantic IDs, got {header['fingerprint']!r} instead of"
                f" {fingerprint!r}; build it again"
            )
        empty = cls(
            level_sizes=tuple(header["level_sizes"]),
            level_token_ids=(),
            tok=(),
            child_start=(),
            leaf_lo=(),
            item_start=tensors["item_start"],
            item_order=tensors["item_order"],
            max_branch=tuple(header["max_branch"]),
            fingerprint=header["fingerprint"],
        )
        return _from_tensors(empty, tensors)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"item_start": self.item_start, "item_order": self.item_order}
        for name in _PER_LEVEL:
            tensors |= {f"{name}.{i}": t for i, t in enumerate(getattr(self, name))}
        return tensors


_PER_LEVEL = ("level_token_ids", "tok", "child_start", "leaf_lo")


def _from_tensors(trie: SidTrie, tensors: dict[str, Tensor]) -> SidTrie:
    """`trie` with its tensors replaced by those of `SidTrie._tensors`."""
    levels = {
        name: tuple(
            tensors[f"{name}.{i}"]
            for i in range(trie.num_levels)
            if f"{name}.{i}" in tensors  # child_start and leaf_lo have one level fewer
        )
        for name in _PER_LEVEL
    }
    return replace(
        trie,
        item_start=tensors["item_start"],
        item_order=tensors["item_order"],
        level_token_ids=levels["level_token_ids"],
        tok=levels["tok"],
        child_start=levels["child_start"],
        leaf_lo=levels["leaf_lo"],
    )


def _check(
    codes_IL: npt.NDArray[np.int64], sizes: tuple[int, ...], tokens: tuple[Tensor, ...]
) -> None:
    if codes_IL.ndim != 2 or 0 in codes_IL.shape:
        raise ValueError(f"codes: a non-empty (items, levels) table needed, got {codes_IL.shape}")
    if not codes_IL.shape[1] == len(sizes) == len(tokens):
        raise ValueError(
            f"codes: {codes_IL.shape[1]} levels, but {len(sizes)} level sizes and {len(tokens)}"
            " token tables; give one of each per level"
        )
    if (codes_IL.min(0) < 0).any() or (codes_IL.max(0) >= np.array(sizes)).any():
        raise ValueError(
            f"codes: a code outside its level, got {codes_IL.min(0)}..{codes_IL.max(0)} for level"
            f" sizes {sizes}"
        )
    for level, (size, table) in enumerate(zip(sizes, tokens, strict=True)):
        if table.shape != (size,) or len(torch.unique(table)) != size:
            raise ValueError(
                f"level_token_ids[{level}]: {size} different vocabulary ids needed, got shape"
                f" {tuple(table.shape)} with {len(torch.unique(table))} different"
            )
