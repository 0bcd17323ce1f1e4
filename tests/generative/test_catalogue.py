"""A living catalogue: every snapshot is the catalogue of its time, however it came about."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.generative.test_filters import IDS, MASK, MODEL, SIZES, TOKENS
from tests.generative.test_grown_trie import assert_same_trie

from dasrec.generative.decoding import catalogue as catalogue_module
from dasrec.generative.decoding.allowed import Allowed
from dasrec.generative.decoding.catalogue import Catalogue
from dasrec.generative.decoding.filters import ItemFilter
from dasrec.generative.decoding.grown_trie import GrownTrie
from dasrec.generative.decoding.search import SearchResult, constrained_beam_search
from dasrec.generative.decoding.trie import SidTrie
from dasrec.generative.decoding.trie_merge import merged

Sid = tuple[int, int, int]
sids = st.tuples(*(st.integers(0, size - 1) for size in SIZES))
sid_lists = st.lists(sids, min_size=1, max_size=6)


def search(index: Any, k: int = 12, num_beams: int = 3, **options: Any) -> SearchResult:
    return constrained_beam_search(
        MODEL, IDS, MASK, index, num_beams=num_beams, num_items=k, **options
    )


def assert_same_results(snapshot: GrownTrie, codes: Sequence[Sid], retired: set[int]) -> None:
    """The snapshot's search is that of a trie of the items that are not retired."""
    rest = np.array([i for i in range(len(codes)) if i not in retired])
    found = search(snapshot)
    if not len(rest):
        assert (found.num_valid == 0).all()
        return
    expected = search(SidTrie.from_sids(np.array(codes)[rest], SIZES, TOKENS))
    real = expected.items >= 0
    assert torch.equal(found.num_valid, expected.num_valid)
    assert torch.equal(found.items[real], torch.from_numpy(rest)[expected.items[real]])
    # Dead beams fill a batch up to other shapes, in which matrix products round otherwise.
    tolerance = 1e-5 if retired else 0
    torch.testing.assert_close(found.scores, expected.scores, atol=tolerance, rtol=0)
    assert torch.equal(found.exact_prefix, expected.exact_prefix)


class Changes(RuleBasedStateMachine):
    """Any order of changes, beside a list of SIDs and a set of retired items."""

    @initialize(first=sid_lists)
    def start(self, first: list[Sid]) -> None:
        self.codes = list(first)
        self.off: set[int] = set()
        self.catalogue = Catalogue(SidTrie.from_sids(first, SIZES, TOKENS), merge_share=None)
        self.past: list[tuple[GrownTrie, list[Sid], set[int]]] = []

    @rule(more=sid_lists)
    def add(self, more: list[Sid]) -> None:
        items = self.catalogue.add(more)
        assert items.tolist() == list(range(len(self.codes), len(self.codes) + len(more)))
        self.codes += more

    @rule(data=st.data())
    def retire(self, data: st.DataObject) -> None:
        items = data.draw(st.lists(st.integers(0, len(self.codes) - 1)))
        self.catalogue.retire(items)
        self.off |= set(items)

    @rule(data=st.data())
    def enable(self, data: st.DataObject) -> None:
        items = data.draw(st.lists(st.integers(0, len(self.codes) - 1)))
        self.catalogue.enable(np.array(items, np.int32))
        self.off -= set(items)

    @rule()
    def merge(self) -> None:
        self.catalogue.merge()
        whole = SidTrie.from_sids(self.codes, SIZES, TOKENS)
        assert self.catalogue.snapshot().delta is None
        assert_same_trie(self.catalogue.snapshot().main, whole)

    @rule()
    def keep(self) -> None:
        self.past.append((self.catalogue.snapshot(), list(self.codes), set(self.off)))

    @invariant()
    def nothing_else_changed(self) -> None:
        assert self.catalogue.retired().tolist() == sorted(self.off)
        assert self.catalogue.snapshot().num_items == len(self.codes)

    def teardown(self) -> None:
        now = (self.catalogue.snapshot(), self.codes, self.off)
        for snapshot, codes, off in [*self.past[-2:], now]:
            assert_same_results(snapshot, codes, off)


Changes.TestCase.settings = settings(max_examples=12, stateful_step_count=8, deadline=None)
TestChanges = Changes.TestCase


@settings(deadline=None, max_examples=30)
@given(sid_lists, st.lists(sid_lists, min_size=1, max_size=4), st.data())
def test_items_of_one_sid_come_call_by_call_then_by_popularity(
    first: list[Sid], calls: list[list[Sid]], data: st.DataObject
) -> None:
    catalogue = Catalogue(SidTrie.from_sids(first, SIZES, TOKENS), merge_share=None)
    order = [(sid, 0, 0.0, item) for item, sid in enumerate(first)]
    for number, call in enumerate(calls, start=1):
        size = len(call)
        popularity = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
        items = catalogue.add(call, popularity).tolist()
        order += list(zip(call, [number] * size, [-p for p in popularity], items, strict=True))
        if data.draw(st.booleans()):
            catalogue.merge()
    catalogue.merge()
    assert catalogue.snapshot().item_of_place.tolist() == [item for *_, item in sorted(order)]


def test_filters_know_what_is_retired() -> None:
    codes = np.random.default_rng(0).integers(0, SIZES, (30, 3))
    catalogue = Catalogue(SidTrie.from_sids(codes[:20], SIZES, TOKENS))
    items = catalogue.add(codes[20:])
    catalogue.retire([3, 25])
    snapshot = catalogue.snapshot()
    even = torch.arange(30) % 2 == 0
    expected = [
        set(range(30)) - {3, 25, 1},
        set(range(0, 30, 2)) - {6, 28},
        {4, 29},
    ]
    filter_ = ItemFilter(
        snapshot,
        3,
        [None, Allowed.of(snapshot, even), None],
        excluded=[[1, 3, 1], [6, 28, 25], []],
        only=[None, None, [3, 4, 29, 29, 25]],
    )
    place_BN = torch.arange(30).expand(3, -1)
    for user, alive in enumerate(filter_.item_alive(place_BN)):
        assert set(snapshot.item_of_place[alive].tolist()) == expected[user]
        assert int(filter_.count(0, torch.arange(3), torch.tensor(user)).sum()) == len(
            expected[user]
        )
    stale = Allowed.of(snapshot, even)
    catalogue.retire([4])
    with pytest.raises(ValueError, match="another index or snapshot"):
        ItemFilter(catalogue.snapshot(), 1, stale)
    assert items.tolist() == list(range(20, 30))


def test_a_merge_keeps_what_changes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    started, go_on = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> SidTrie:
        started.set()
        assert go_on.wait(10)
        return merged(*arguments)

    monkeypatch.setattr(catalogue_module, "merged", slow)
    rng = np.random.default_rng(1)
    codes = [tuple(row) for row in rng.integers(0, SIZES, (40, 3)).tolist()]
    catalogue = Catalogue(SidTrie.from_sids(codes[:20], SIZES, TOKENS), merge_share=0.5)
    catalogue.add(codes[20:25])
    assert not started.is_set()
    catalogue.add(codes[25:30])  # half of the 20: merges by itself
    assert started.wait(10)
    before = catalogue.snapshot()
    catalogue.add(codes[30:])
    catalogue.retire([2, 27, 35])
    go_on.set()
    catalogue.wait()
    snapshot = catalogue.snapshot()
    assert (snapshot.main.num_items, snapshot.num_added) == (30, 10)
    assert_same_results(snapshot, codes, {2, 27, 35})
    assert_same_results(before, codes[:30], set())
    catalogue.add(codes[30:])  # the same SIDs once more, beside those still in the delta
    catalogue.merge()
    catalogue.enable([2, 27, 35])
    assert catalogue.snapshot().enabled is None
    codes += codes[30:]
    assert_same_trie(catalogue.snapshot().main, SidTrie.from_sids(codes, SIZES, TOKENS))


def walk(snapshot: GrownTrie, generator: np.random.Generator) -> set[int]:
    """Items reached by following random living nodes, as a search does."""
    filter_ = ItemFilter(snapshot, 1)
    node = torch.tensor([0])
    for level in range(snapshot.num_levels):
        children = snapshot.children(level, node)
        alive = filter_.alive(level, children.node_C, torch.tensor(0))
        node = children.node_C[alive]
        node = node[torch.from_numpy(generator.permutation(len(node))[:3])]
    places = [
        place
        for low, high in snapshot.place_ranges(snapshot.num_levels - 1, node)
        for a, b in zip(low.tolist(), high.tolist(), strict=True)
        for place in range(a, b)
    ]
    living = filter_.item_alive(torch.tensor([places], dtype=torch.int64))[0]
    return set(snapshot.item_of_place[places][living].tolist())


def test_searches_while_the_catalogue_changes() -> None:
    """Whatever the order of changes, merges and searches: all found is alive in its snapshot."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, SIZES, (200, 3))
    catalogue = Catalogue(SidTrie.from_sids(codes[:2], SIZES, TOKENS), merge_share=0.1)
    catalogue.retire([1])
    stop, faults, walks = threading.Event(), [], []

    def searching(seed: int) -> None:
        generator = np.random.default_rng(seed)
        try:
            while not stop.is_set():
                snapshot = catalogue.snapshot()
                found = walk(snapshot, generator)
                mask = snapshot.enabled_mask
                living = (
                    set(range(snapshot.num_items))
                    if mask is None
                    else set(mask.nonzero().squeeze(1).tolist())
                )
                assert found
                assert found <= living
                walks.append(snapshot.num_items)
        except Exception as fault:  # the thread's, told by the test
            faults.append(fault)

    threads = [threading.Thread(target=searching, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    off = {1}
    for first in range(2, 200, 2):
        items = catalogue.add(codes[first : first + 2])
        catalogue.retire(items[1:])
        off.add(int(items[1]))
        if first % 20 == 0:
            catalogue.enable([1])
            catalogue.retire([1])
        time.sleep(0.002)
    stop.set()
    for thread in threads:
        thread.join()
    catalogue.wait()
    assert not faults
    assert len(set(walks)) > 10  # they did run beside the changes
    assert catalogue.snapshot().main.num_items > 2  # and so did merges
    assert catalogue.retired().tolist() == sorted(off)
    catalogue.merge()
    assert_same_trie(catalogue.snapshot().main, SidTrie.from_sids(codes, SIZES, TOKENS))


def test_save_and_load(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, SIZES, (30, 3))
    trie = SidTrie.from_sids(codes[:20], SIZES, TOKENS, fingerprint="abc")
    catalogue = Catalogue(trie, retired=[4], merge_share=None)
    catalogue.add(codes[20:])
    catalogue.retire([29])
    path = tmp_path / "catalogue.safetensors"
    for _ in range(2):
        catalogue.save(path)
    assert catalogue.snapshot().num_added == 10  # saving merges nothing
    loaded = Catalogue.load(path)
    assert loaded.retired().tolist() == [4, 29]
    assert_same_trie(loaded.snapshot().main, SidTrie.from_sids(codes, SIZES, TOKENS))
    assert loaded.snapshot().main.fingerprint == "abc"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    trie.save(tmp_path / "trie.safetensors")
    with pytest.raises(ValueError, match="a trie, not a catalogue"):
        Catalogue.load(tmp_path / "trie.safetensors")
    with pytest.raises(ValueError, match=r"a catalogue, not a trie; .*Catalogue\.load"):
        SidTrie.load(path)  # its retired items would come back


def test_errors_change_nothing() -> None:
    catalogue = Catalogue(SidTrie.from_sids([(0, 1, 2), (0, 1, -1)][:1], SIZES, TOKENS))
    before = catalogue.snapshot()
    with pytest.raises(ValueError, match="a code outside its level"):
        catalogue.add([[0, 0, 9]])
    with pytest.raises(ValueError, match="begins that of another"):
        catalogue.add([[0, 1, -1]])
    with pytest.raises(ValueError, match="popularity: one number per item"):
        catalogue.add([[0, 0, 1]], popularity=[1, 2])
    with pytest.raises(ValueError, match=r"outside 0\.\.0, got 0\.\.1"):
        catalogue.retire([0, 1])
    with pytest.raises(ValueError, match=r"indices needed, got torch\.bool"):
        catalogue.enable(torch.tensor([True]))
    assert catalogue.snapshot() is before
    with pytest.raises(ValueError, match="outside"):
        Catalogue(before.main, retired=[-1])
