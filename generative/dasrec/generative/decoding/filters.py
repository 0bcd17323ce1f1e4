"""Which items a user may get, asked of whole subtrees by prefix sums.

Shape letters: B users, I items, E excluded items per user (padded), N nodes asked per user.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dasrec.generative.decoding.trie import SidTrie

Ragged = Sequence[Sequence[int] | npt.NDArray[np.integer] | Tensor]


class ItemFilter:
    """Allowed and excluded items of one batch of users.

    Works on places in `trie.item_order`, where every node is a range: `cum[high] - cum[low]`
    allowed items are below it, less the user's excluded ones in that range.
    """

    def __init__(
        self,
        trie: SidTrie,
        batch_size: int,
        allowed_items: Tensor | None = None,
        excluded_items: Ragged | Tensor | None = None,
    ) -> None:
        """Prepare the filter.

        Args:
            trie: The catalogue.
            batch_size: B.
            allowed_items: bool (I,) for all users or (B, I); None allows everything.
            excluded_items: Per user the item indices never to return, as B sequences or as a
                (B, E) tensor padded with -1.

        Raises:
            ValueError: Shapes that do not fit, or an item outside the catalogue.
        """
        self._trie = trie
        self._cum: Tensor | None = None  # (I + 1,) or (B, I + 1)
        self._excluded: Tensor | None = None  # (B, E) sorted places, padded with I
        if allowed_items is not None:
            allowed = torch.as_tensor(allowed_items, device=trie.device)
            if allowed.dtype != torch.bool or tuple(allowed.shape) not in {
                (trie.num_items,),
                (batch_size, trie.num_items),
            }:
                raise ValueError(
                    f"allowed_items: bool ({trie.num_items},) or ({batch_size}, {trie.num_items})"
                    f" needed, got {allowed.dtype} {tuple(allowed.shape)}"
                )
            by_place = allowed[..., trie.item_order.long()]
            cum = by_place.cumsum(-1, dtype=torch.int32)
            self._cum = torch.cat([torch.zeros_like(cum[..., :1]), cum], -1)
        if excluded_items is not None:
            self._excluded = self._places(pad_ragged(excluded_items, batch_size).to(trie.device))

    @property
    def is_trivial(self) -> bool:
        """Whether every item is allowed to everybody."""
        return self._cum is None and self._excluded is None

    def alive(self, level: int, node_BN: Tensor) -> Tensor:
        """(B, N) bool: whether the user may get any item below each node of `level`."""
        return self._count(*self._trie.item_range(level, node_BN)) > 0

    def item_alive(self, place_BN: Tensor) -> Tensor:
        """(B, N) bool: whether the user may get the item at each place of `item_order`."""
        return self._count(place_BN, place_BN + 1) > 0

    def _count(self, low_BN: Tensor, high_BN: Tensor) -> Tensor:
        count = high_BN - low_BN if self._cum is None else self._at(high_BN) - self._at(low_BN)
        if self._excluded is not None:
            count = count - torch.searchsorted(self._excluded, high_BN.contiguous())
            count = count + torch.searchsorted(self._excluded, low_BN.contiguous())
        return count

    def _at(self, place_BN: Tensor) -> Tensor:
        assert self._cum is not None
        return self._cum[place_BN] if self._cum.ndim == 1 else self._cum.gather(1, place_BN)

    def _places(self, item_BE: Tensor) -> Tensor:
        """Sorted places of the excluded items, each counted once and only if else allowed.

        An excluded item that is not allowed anyway, or listed twice, would be taken off the
        count twice, and its subtree would look dead.
        """
        size = self._trie.num_items
        if item_BE.numel() and (int(item_BE.max()) >= size or int(item_BE.min()) < -1):
            raise ValueError(
                f"excluded_items: item index outside 0..{size - 1}, got"
                f" {int(item_BE.min())}..{int(item_BE.max())}"
            )
        place_BE = self._trie.item_position[item_BE.clamp(min=0)].masked_fill(item_BE < 0, size)
        if self._cum is not None and item_BE.numel():
            inside = place_BE.clamp(max=size - 1)
            dead = self._at(inside + 1) == self._at(inside)
            place_BE = place_BE.masked_fill(dead, size)
        place_BE = place_BE.sort(dim=1).values
        repeated = torch.zeros_like(place_BE, dtype=torch.bool)
        repeated[:, 1:] = place_BE[:, 1:] == place_BE[:, :-1]
        return place_BE.masked_fill(repeated, size).sort(dim=1).values


def pad_ragged(rows: Ragged | Tensor, batch_size: int) -> Tensor:
    """(B, E) int64 of B index lists, padded with -1; a tensor passes through.

    Raises:
        ValueError: Not one row per user.
    """
    if len(rows) != batch_size:
        raise ValueError(f"excluded_items: {batch_size} rows needed, got {len(rows)}")
    if isinstance(rows, Tensor):
        if rows.ndim != 2:
            raise ValueError(f"excluded_items: a (B, E) tensor needed, got {tuple(rows.shape)}")
        return rows.long()
    arrays = [np.asarray(row, dtype=np.int64).reshape(-1) for row in rows]
    lengths = np.array([len(row) for row in arrays])
    padded = np.full((batch_size, int(lengths.max(initial=0))), -1, np.int64)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate([*arrays, []])
    return torch.from_numpy(padded)
