"""A catalogue that changes while requests run.

Shape letters: A items of one call, D items added since the last merge, I items, L levels.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dasrec.generative.decoding.delta import Delta, build_delta
from dasrec.generative.decoding.grown_trie import GrownTrie
from dasrec.generative.decoding.trie import SidTrie
from dasrec.generative.decoding.trie_check import checked_codes
from dasrec.generative.decoding.trie_file import read_trie, write_trie
from dasrec.generative.decoding.trie_merge import merged

Items = Sequence[int] | npt.NDArray[np.integer] | Tensor


class Catalogue:
    """Items that are added, retired and enabled again; safe to use from any thread.

    A request searches `snapshot()`, which never changes. Changes make a new snapshot and put it in
    the old one's place at once, so a request sees all of a change or nothing. Added items wait in a
    delta beside the main trie; a merge makes one trie of both in the background.

    Items that share a SID are returned in the order in which they were added, those of one call by
    popularity.
    """

    def __init__(
        self, trie: SidTrie, *, retired: Items = (), merge_share: float | None = 0.02
    ) -> None:
        """Start from a trie.

        Args:
            trie: The items so far, on the device where requests search.
            retired: Items not to return.
            merge_share: Merge on its own once that share of the main trie's items was added; None
                merges only when asked to.

        Raises:
            ValueError: A retired item that does not exist.
        """
        self._merge_share = merge_share
        self._changing = threading.Lock()  # held while a change replaces the snapshot
        self._merging = threading.Lock()  # held during a merge
        self._merger: threading.Thread | None = None
        self._added = np.zeros((0, trie.num_levels), np.int64)  # (D, L) codes, by item index
        self._turn = np.zeros(0, np.int64)  # (D,) order within a SID
        self._snapshot = GrownTrie(trie)
        self.retire(retired)

    def snapshot(self) -> GrownTrie:
        """The catalogue as it is now, for `constrained_beam_search`; it never changes."""
        return self._snapshot

    def add(
        self, codes: npt.ArrayLike | Tensor, popularity: npt.ArrayLike | None = None
    ) -> npt.NDArray[np.int64]:
        """Add items; the next snapshot has them.

        Args:
            codes: (A, L) codes, short SIDs padded with -1.
            popularity: (A,) the order of those that share a SID, most popular first.

        Returns:
            (A,) their item indices, which follow those of all items so far.

        Raises:
            ValueError: What `SidTrie.from_sids` would refuse; nothing was added then.
        """
        main = self._snapshot.main  # sizes never change
        codes_AL = checked_codes(codes, main.level_sizes, has_end=main.has_end).astype(np.int64)
        rank = np.zeros(len(codes_AL)) if popularity is None else -np.asarray(popularity, float)
        if rank.shape != (len(codes_AL),):
            raise ValueError(f"popularity: one number per item needed, got shape {rank.shape}")
        turn_A = np.empty(len(rank), np.int64)
        turn_A[np.argsort(rank, kind="stable")] = np.arange(len(rank))
        with self._changing:
            old = self._snapshot
            added = np.concatenate([self._added, codes_AL])
            turn = np.concatenate([self._turn, old.num_items + turn_A])
            delta = _delta(old.main, added, turn)
            mask = old.enabled_mask
            if mask is not None:
                mask = torch.cat([mask, mask.new_ones(len(codes_AL))])
            self._publish(GrownTrie(old.main, delta, mask))
            self._added, self._turn = added, turn
        self._merge_if_due()
        return np.arange(old.num_items, old.num_items + len(codes_AL))

    def retire(self, items: Items) -> None:
        """Return these items no more from the next snapshot on; retired ones stay so.

        Raises:
            ValueError: An item that does not exist.
        """
        self._enable(items, on=False)

    def enable(self, items: Items) -> None:
        """Return these items again; those not retired stay as they are.

        Raises:
            ValueError: An item that does not exist.
        """
        self._enable(items, on=True)

    def retired(self) -> npt.NDArray[np.int64]:
        """Indices of the retired items, rising."""
        mask = self._snapshot.enabled_mask
        return np.zeros(0, np.int64) if mask is None else np.flatnonzero(~mask.cpu().numpy())

    def merge(self) -> None:
        """Make one trie of the main trie and all that was added before this call.

        Snapshots, and the items that searches return, are the same before and after. Changes go on
        meanwhile.
        """
        with self._merging:
            old = self._snapshot
            if old.delta is None:
                return
            main = merged(old.main, old.delta)
            with self._changing:
                now = self._snapshot
                self._added = self._added[old.num_added :]
                self._turn = self._turn[old.num_added :]
                delta = _delta(main, self._added, self._turn)
                self._publish(GrownTrie(main, delta, now.enabled_mask))

    def wait(self) -> None:
        """Until no merge runs in the background."""
        if self._merger is not None:
            self._merger.join()

    def save(self, path: str | Path) -> None:
        """Write all items and which are retired to one file, whole or not at all."""
        snapshot = self._snapshot
        trie = snapshot.main if snapshot.delta is None else merged(snapshot.main, snapshot.delta)
        header, tensors = trie.contents()
        mask = snapshot.enabled_mask
        mask = torch.ones(trie.num_items, dtype=torch.bool) if mask is None else mask
        write_trie(path, header, tensors | {"enabled": mask})

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: torch.device | str = "cpu",
        merge_share: float | None = 0.02,
    ) -> "Catalogue":
        """Read what `save` wrote.

        Raises:
            ValueError: Not a catalogue, or a damaged file.
        """
        header, tensors = read_trie(path)
        if "enabled" not in tensors:
            raise ValueError(
                f"{path}: a trie, not a catalogue; give SidTrie.load(path) to Catalogue"
            )
        retired = (~tensors.pop("enabled")).nonzero().squeeze(1)
        trie = SidTrie.from_contents(header, tensors).to(device)
        return cls(trie, retired=retired, merge_share=merge_share)

    def _enable(self, items: Items, *, on: bool) -> None:
        chosen = torch.as_tensor(items).reshape(-1)
        if len(chosen) and chosen.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"items: item indices needed, got {chosen.dtype}")
        with self._changing:
            old = self._snapshot
            if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < old.num_items:
                raise ValueError(
                    f"items: item index outside 0..{old.num_items - 1}, got"
                    f" {int(chosen.min())}..{int(chosen.max())}"
                )
            mask = old.enabled_mask
            if mask is None:
                mask = torch.ones(old.num_items, dtype=torch.bool, device=old.device)
            mask = mask.index_fill(0, chosen.to(old.device, torch.int64), on)
            self._publish(GrownTrie(old.main, old.delta, mask))

    def _publish(self, snapshot: GrownTrie) -> None:
        if snapshot.enabled_mask is not None and bool(snapshot.enabled_mask.all()):
            snapshot = GrownTrie(snapshot.main, snapshot.delta)
        _ = snapshot.enabled  # counted here, so that no request has to
        self._snapshot = snapshot

    def _merge_if_due(self) -> None:
        now = self._snapshot
        if self._merge_share is None or now.num_added < self._merge_share * now.main.num_items:
            return
        with self._changing:
            if self._merger is None or not self._merger.is_alive():
                self._merger = threading.Thread(target=self.merge, name="merge", daemon=True)
                self._merger.start()


def _delta(
    main: SidTrie, added: npt.NDArray[np.int64], turn: npt.NDArray[np.int64]
) -> Delta | None:
    """The delta of the items after the main trie's."""
    if not len(added):
        return None
    order = np.lexsort((turn, *added.T[::-1]))  # the last key sorts first
    codes_DL = torch.from_numpy(added[order]).to(main.device)
    return build_delta(main, codes_DL, torch.from_numpy(order + main.num_items).to(main.device))
