"""A trie with additions is the trie of all items: hypothesis draws catalogues of short SIDs too."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dasrec.generative.decoding.delta import build_delta
from dasrec.generative.decoding.grown_trie import GrownTrie
from dasrec.generative.decoding.trie import SidTrie
from dasrec.generative.decoding.trie_check import checked_codes
from dasrec.generative.decoding.trie_merge import merged

SIZES = (3, 2, 300)
TOKENS = [np.arange(0, 3), np.arange(3, 5), np.arange(5, 305)]
END = 999

sids = st.tuples(st.integers(0, 2), st.integers(-1, 1), st.sampled_from([-1, 0, 1, 7, 299])).map(
    lambda sid: (sid[0], -1, -1) if sid[1] < 0 else sid
)
catalogues = st.lists(sids, min_size=1, max_size=12)


def grown(main: SidTrie, codes: Any) -> GrownTrie:
    """`main` with more items, by an order of SIDs of its own."""
    codes_DL = checked_codes(codes, main.level_sizes, has_end=main.has_end).astype(np.int64)
    order = np.array(sorted(range(len(codes_DL)), key=lambda i: (tuple(codes_DL[i]), i)))
    item_D = torch.from_numpy(order + main.num_items)
    return GrownTrie(main, build_delta(main, torch.from_numpy(codes_DL[order]), item_D))


def assert_same_trie(one: SidTrie, other: SidTrie) -> None:
    for name in ("level_sizes", "level_padded", "max_branch", "has_end", "num_items"):
        assert getattr(one, name) == getattr(other, name)
    for a, b in zip(one.contents()[1].items(), other.contents()[1].items(), strict=True):
        assert a[0] == b[0]
        assert torch.equal(a[1], b[1])
        assert a[1].dtype == b[1].dtype
    assert torch.equal(one.place_of_item, other.place_of_item)
    assert one.nbytes == other.nbytes


@settings(deadline=None, max_examples=60)
@given(catalogues, catalogues, st.booleans())
def test_grown_is_the_trie_of_all(
    first: list[tuple[int, ...]], added: list[tuple[int, ...]], has_end: bool
) -> None:
    end = END if has_end else None
    try:
        whole = SidTrie.from_sids(first + added, SIZES, TOKENS, end_token_id=end)
    except ValueError:  # no end token, and a SID begins another
        with pytest.raises(ValueError, match="begins"):
            grown(SidTrie.from_sids(first, SIZES, TOKENS), added)
        return
    main = SidTrie.from_sids(first, SIZES, TOKENS, end_token_id=end)
    union = grown(main, added)
    for name in ("level_sizes", "level_padded", "max_branch", "num_levels", "num_items"):
        assert getattr(union, name) == getattr(whole, name)
    for level in range(3):
        count = len(whole.tok[level - 1]) if level else 1
        node_R = torch.cat([torch.arange(count), torch.arange(count).flip(0)])
        children = zip(union.children(level, node_R), whole.children(level, node_R), strict=True)
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in children)
        node_N = torch.arange(len(whole.tok[level]))
        ((low, high),) = whole.place_ranges(level, node_N)
        ranges = union.place_ranges(level, node_N)
        for node in node_N.tolist():
            places = [p for low, high in ranges for p in range(int(low[node]), int(high[node]))]
            items = union.item_of_place[places].tolist()
            expected = whole.item_of_place[low[node] : high[node]].tolist()
            assert sorted(items) == sorted(expected)
            assert level < 2 or items == expected  # items of one SID come in order
    place_P = torch.arange(union.num_places, dtype=torch.int32)
    assert torch.equal(union.place_of_item[union.item_of_place.long()], place_P)
    assert union.delta is not None
    assert_same_trie(merged(main, union.delta), whole)


@pytest.mark.parametrize(
    ("first", "added"),
    [
        ([(0, 1, 299)], [(0, -1, -1)]),
        ([(0, -1, -1)], [(0, 1, 299)]),
        ([(1, 1, 0)], [(0, 1, -1), (0, 1, 2)]),
        ([(0, 1, -1), (1, 0, 0)], [(2, 0, 1), (0, 1, 255)]),
    ],
)
def test_no_added_sid_begins_another(first: Any, added: Any) -> None:
    with pytest.raises(ValueError, match=r"the SID of added item [123] begins"):
        grown(SidTrie.from_sids(first, SIZES, TOKENS), added)


def test_without_additions_it_is_the_trie() -> None:
    trie = SidTrie.from_sids([(0, 1, 2), (0, 0, 1)], SIZES, TOKENS)
    same = GrownTrie(trie)
    node = torch.tensor([0])
    assert torch.equal(same.children(1, node).node_C, trie.children(1, node).node_C)
    assert same.place_ranges(0, node) == trie.place_ranges(0, node)
    assert same.item_of_place is trie.item_of_place
    assert same.place_of_item is trie.place_of_item
    assert same.max_branch == trie.max_branch
    assert same.enabled is None
    assert same.to("cpu") is same
    assert grown(trie, [(1, 1, 1)]).to("meta").device.type == "meta"
