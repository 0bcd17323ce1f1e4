"""Which items each user of a request may get, asked of whole subtrees.

Every node's items lie at one or two ranges of places (`SidIndex.place_ranges`), so how many of them
a user may get is a difference of prefix sums, less the user's excluded items in the range.

Shape letters: B users, I items, P places, S different predicates, E listed items of all users,
N nodes of any shape, one user each.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dasrec.generative.decoding.allowed import Allowed
from dasrec.generative.decoding.index import SidIndex

Ragged = Sequence[Sequence[int] | npt.NDArray[np.integer] | Tensor]
Lists = Ragged | Tensor | Sequence[Sequence[int] | None]
Predicates = Tensor | Allowed | Sequence[Allowed | None]


class ItemFilter:
    """What a batch of users may get: of its own list or of all items, what a predicate allows,
    less what is excluded. Retired items are never allowed."""

    def __init__(
        self,
        index: SidIndex,
        batch_size: int,
        allowed: Predicates | None = None,
        excluded: Ragged | Tensor | None = None,
        only: Lists | None = None,
    ) -> None:
        """Prepare the filter.

        Args:
            index: The catalogue.
            batch_size: B.
            allowed: A predicate for all users, B of them (None allows everything), or masks: bool
                (I,) or (B, I). Memory grows with the different predicates among them.
            excluded: Per user the item indices never to return, as B sequences or as a (B, E)
                tensor padded with -1.
            only: Per user the only item indices to return, in the same forms; None for a user
                without such a list. For short lists: of many items make a predicate.

        Raises:
            ValueError: Shapes that do not fit, an item outside the catalogue, or a predicate made
                for another index.
        """
        self._index = index
        self._sums: Tensor | None = None  # (S, P + 1)
        self._set_of_user = torch.zeros(batch_size, dtype=torch.int64, device=index.device)
        self._excluded: Tensor | None = None  # (E,) sorted keys, see _keys
        self._only: Tensor | None = None  # (E,) sorted keys
        self._has_list = torch.zeros(batch_size, dtype=torch.bool, device=index.device)
        self._set_predicates(allowed, batch_size)
        if excluded is not None:
            self._excluded = self._living_keys(*self._listed("excluded", excluded, batch_size))
        if only is not None:
            keys = self._living_keys(*self._listed("only", only, batch_size))
            self._only = keys
            self._has_list = torch.tensor([row is not None for row in only], device=index.device)

    @property
    def is_trivial(self) -> bool:
        """Whether every item is allowed to everybody."""
        return self._sums is None and self._excluded is None and self._only is None

    def count(self, level: int, node_N: Tensor, user_N: Tensor | None = None) -> Tensor:
        """(N,) how many items the user may get below each node of `level`.

        Args:
            level: From 0.
            node_N: Nodes, of any shape.
            user_N: The user who asks for each, of a shape that broadcasts; None for nodes (B, ...)
                whose row is the user.
        """
        user_N = self._rows(node_N) if user_N is None else user_N
        (low, high), *more = self._index.place_ranges(level, node_N)
        count = self._count(low, high, user_N)
        for low, high in more:
            count = count + self._count(low, high, user_N)
        return count

    def alive(self, level: int, node_N: Tensor, user_N: Tensor | None = None) -> Tensor:
        """(N,) bool: whether the user may get any item below each node; arguments as in `count`."""
        return self.count(level, node_N, user_N) > 0

    def item_alive(self, place_N: Tensor, user_N: Tensor | None = None) -> Tensor:
        """(N,) bool: whether the user may get the item at each place; arguments as in `count`."""
        user_N = self._rows(place_N) if user_N is None else user_N
        alive: Tensor = self._count(place_N, place_N + 1, user_N) > 0
        return alive

    def _count(self, low_N: Tensor, high_N: Tensor, user_N: Tensor) -> Tensor:
        """(N,) items of the user at places low..high-1."""
        if self._sums is None:
            count = high_N - low_N
        else:
            low_N, high_N, user_N = torch.broadcast_tensors(low_N, high_N, user_N)
            count = self._sum_to(high_N, user_N).sub_(self._sum_to(low_N, user_N))
        if self._excluded is not None:
            count = count - self._in_range(self._excluded, low_N, high_N, user_N)
        if self._only is not None:
            listed = self._in_range(self._only, low_N, high_N, user_N)
            count = torch.where(self._has_list[user_N], listed, count)
        return count

    def _sum_to(self, place_N: Tensor, user_N: Tensor) -> Tensor:
        """(N,) int32 items before each place that meet the user's predicate."""
        assert self._sums is not None
        at_N = place_N
        if len(self._sums) > 1:
            at_N = self._set_of_user[user_N] * self._sums.shape[1] + place_N
        # index_select: four times as fast as indexing on a CPU
        return self._sums.flatten().index_select(0, at_N.flatten()).view(at_N.shape)

    def _in_range(self, keys: Tensor, low_N: Tensor, high_N: Tensor, user_N: Tensor) -> Tensor:
        low, high = self._keys(low_N, user_N), self._keys(high_N, user_N)
        return torch.searchsorted(keys, high) - torch.searchsorted(keys, low)

    def _keys(self, place_N: Tensor, user_N: Tensor) -> Tensor:
        """Users' places as numbers in one order: all lists are one sorted tensor, unpadded."""
        return user_N * (self._index.num_places + 1) + place_N

    def _living_keys(self, user_E: Tensor, item_E: Tensor) -> Tensor:
        """Sorted keys of listed items, each once and only if allowed by what is set so far.

        An excluded item that is not allowed anyway, or listed twice, would be taken off the count
        twice, and its subtree would look dead.
        """
        place_E = self._index.place_of_item[item_E].long()
        living = self.item_alive(place_E, user_E)
        keys: Tensor = torch.unique(self._keys(place_E, user_E)[living])
        return keys

    def _rows(self, node_N: Tensor) -> Tensor:
        row_B = torch.arange(len(node_N), device=node_N.device)
        return row_B.view(-1, *[1] * (node_N.ndim - 1))

    def _set_predicates(self, allowed: Predicates | None, batch_size: int) -> None:
        index = self._index
        if allowed is None:
            if index.enabled is not None:
                self._sums = index.enabled.sums.unsqueeze(0)
            return
        if isinstance(allowed, Allowed):
            rows: list[Allowed] = [allowed] * batch_size
        elif isinstance(allowed, Tensor):
            rows = _of_masks(index, allowed, batch_size)
        else:
            everything = Allowed.everything(index) if None in allowed else None
            rows = [everything if row is None else row for row in allowed]  # type: ignore[misc]
        if len(rows) != batch_size:
            raise ValueError(f"allowed: {batch_size} predicates needed, got {len(rows)}")
        sets = {id(row): row for row in rows}
        for row in sets.values():
            row.check(index)
        numbers = {key: number for number, key in enumerate(sets)}
        sums = [row.sums for row in sets.values()]
        self._sums = sums[0].unsqueeze(0) if len(sums) == 1 else torch.stack(sums)
        self._set_of_user = torch.tensor([numbers[id(r)] for r in rows], device=index.device)

    def _listed(self, name: str, rows: Lists, batch_size: int) -> tuple[Tensor, Tensor]:
        """(E,) users and (E,) items of all lists.

        Raises:
            ValueError: Not one list per user, or an item outside the catalogue.
        """
        if len(rows) != batch_size:
            raise ValueError(f"{name}: {batch_size} rows needed, got {len(rows)}")
        if isinstance(rows, Tensor):
            if rows.ndim != 2:
                raise ValueError(f"{name}: a (B, E) tensor needed, got {tuple(rows.shape)}")
            item_BE = rows.to(self._index.device, torch.int64)
            user_E, column_E = (item_BE != -1).nonzero(as_tuple=True)
            item_E = item_BE[user_E, column_E]
        else:
            lists = [np.asarray([] if r is None else r, np.int64).reshape(-1) for r in rows]
            user = np.repeat(np.arange(batch_size), [len(row) for row in lists])
            user_E = torch.from_numpy(user).to(self._index.device)
            item_E = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *lists])).to(
                self._index.device
            )
        size = self._index.num_items
        if len(item_E) and (int(item_E.min()) < 0 or int(item_E.max()) >= size):
            raise ValueError(
                f"{name}: item index outside 0..{size - 1}, got"
                f" {int(item_E.min())}..{int(item_E.max())}"
            )
        return user_E, item_E


def _of_masks(index: SidIndex, mask: Tensor, batch_size: int) -> list[Allowed]:
    size = index.num_items
    if mask.dtype != torch.bool or tuple(mask.shape) not in {(size,), (batch_size, size)}:
        raise ValueError(
            f"allowed: bool ({size},) or ({batch_size}, {size}) needed, got {mask.dtype}"
            f" {tuple(mask.shape)}"
        )
    if mask.ndim == 1:
        return [Allowed.of(index, mask)] * batch_size
    return [Allowed.of(index, row) for row in mask]
