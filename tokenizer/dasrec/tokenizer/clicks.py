"""A batch of click pairs as tensors.

Shape letters: B click pairs, U users and I items of the click pairs.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dasrec.tokenizer.alignment import negatives
from dasrec.tokenizer.pairs import Batch


class ClickSide(NamedTuple):
    """A batch's clicks from one side: own = items and other = users, or the reverse."""

    own_B: Tensor
    other_B: Tensor
    negatives: Tensor
    """(own, other), see `Clicks`; its rows are the own side's clicked ones."""
    pairs: Tensor
    """Co-occurring pairs of the own side."""


@dataclass(frozen=True)
class Clicks:
    """A `Batch`, with what its losses share."""

    users: Tensor
    """Distinct users: those of the click pairs, then those that are only partners."""
    items: Tensor
    """Distinct items."""
    click_users_B: Tensor
    click_items_B: Tensor
    user_pairs: Tensor
    item_pairs: Tensor
    negatives_UI: Tensor
    """log of the times that an item is a negative of a user of the click pairs, NEVER for none."""
    negatives_IU: Tensor
    """The same for items' negative users."""

    @property
    def num_users(self) -> int:
        """Users of the click pairs."""
        return len(self.negatives_UI)

    def side(self, name: str) -> "ClickSide":
        """The clicks as seen from the items ("item") or the users ("user")."""
        if name == "item":
            columns = self.click_items_B, self.click_users_B, self.negatives_IU, self.item_pairs
        else:
            columns = self.click_users_B, self.click_items_B, self.negatives_UI, self.user_pairs
        return ClickSide(*columns)

    @classmethod
    def of(cls, batch: Batch, device: torch.device | str = "cpu") -> "Clicks":
        """Move a batch to a device."""
        users, items, click_users, click_items, clicked, user_pairs, item_pairs = (
            torch.from_numpy(column).to(device) for column in batch
        )
        return cls(
            users,
            items,
            click_users,
            click_items,
            user_pairs,
            item_pairs,
            negatives(click_items, clicked),
            negatives(click_users, clicked.T),
        )
