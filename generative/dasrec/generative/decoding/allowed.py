"""Prefix sums of a predicate on items: how many of any subtree's items meet it, in two reads."""

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from dasrec.generative.decoding.index import SidIndex


@dataclass(frozen=True, eq=False)
class Allowed:
    """The items of one index that meet a predicate; made once, used by any number of requests."""

    sums: Tensor
    """(P + 1,) int32: `sums[high] - sums[low]` items at places low..high-1 meet it."""
    mask: Tensor
    """(I,) bool: the items that meet it."""
    made_for: "weakref.ref[SidIndex]"
    """The index; weak, so that keeping a predicate does not keep an old snapshot."""

    @classmethod
    def of(cls, index: SidIndex, mask_I: Tensor) -> "Allowed":
        """The predicate that is true at the items of `mask_I` that are not retired.

        Args:
            index: The catalogue.
            mask_I: bool (I,).

        Raises:
            ValueError: A mask of another type or length.
        """
        if mask_I.dtype != torch.bool or tuple(mask_I.shape) != (index.num_items,):
            raise ValueError(
                f"allowed: bool ({index.num_items},) needed, got {mask_I.dtype}"
                f" {tuple(mask_I.shape)}"
            )
        mask_I = mask_I.to(index.device)
        if index.enabled is not None:
            mask_I = mask_I & index.enabled.mask
        return cls.counted(index, mask_I)

    @classmethod
    def counted(cls, index: SidIndex, mask_I: Tensor) -> "Allowed":
        """The predicate that is true at the items of `mask_I`, retired ones included."""
        sums = torch.zeros(index.num_places + 1, dtype=torch.int32, device=index.device)
        mask_P = mask_I.index_select(0, index.item_of_place)
        torch.cumsum(mask_P, 0, dtype=torch.int32, out=sums[1:])
        return cls(sums, mask_I, weakref.ref(index))

    @classmethod
    def everything(cls, index: SidIndex) -> "Allowed":
        """The predicate that every item meets that is not retired."""
        if index.enabled is not None:
            return index.enabled
        return cls.of(index, torch.ones(index.num_items, dtype=torch.bool))

    def check(self, index: SidIndex) -> None:
        """Refuse to filter another index than the one this was made for.

        Raises:
            ValueError: They differ: places may, and what is retired.
        """
        if self.made_for() is not index:
            raise ValueError(
                "allowed: made for another index or snapshot than the one searched (a copy on"
                " another device is another one); make it with Allowed.of(index, mask) again"
            )
