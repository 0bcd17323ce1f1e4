from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from dasrec.generative.decoding.allowed import Allowed
from dasrec.generative.decoding.filters import ItemFilter
from dasrec.generative.decoding.search import constrained_beam_search
from dasrec.generative.decoding.trie import SidTrie

SIZES = (3, 3, 4)
TOKENS = [np.arange(0, 3), np.arange(3, 6), np.arange(6, 10)]
NUM_ITEMS = 30


def make_model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=12,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=16,
        max_position_embeddings=16,
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


MODEL = make_model()
IDS = torch.tensor([[11, 1, 2, 3], [10, 4, 8, 0], [0, 0, 5, 6]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]])


def make_codes(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, SIZES, (NUM_ITEMS, 3))  # some SIDs shared


item_lists = st.lists(st.integers(0, NUM_ITEMS - 1), max_size=40)  # repetitions included


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 5),
    allowed=st.none() | st.lists(st.booleans(), min_size=NUM_ITEMS, max_size=NUM_ITEMS),
    per_user=st.booleans(),
    excluded=st.none() | st.lists(item_lists, min_size=3, max_size=3),
    only=st.none() | st.lists(st.none() | item_lists, min_size=3, max_size=3),
    num_beams=st.sampled_from([1, 4, 40]),
    k=st.integers(1, NUM_ITEMS + 1),
    normalize=st.sampled_from(["level", "full", "trie"]),
)
def test_filtered_search_is_the_search_of_the_rest(
    seed: int,
    allowed: list[bool] | None,
    per_user: bool,
    excluded: list[list[int]] | None,
    only: list[list[int] | None] | None,
    num_beams: int,
    k: int,
    normalize: Any,
) -> None:
    codes = make_codes(seed)
    mask = None if allowed is None else torch.tensor(allowed)
    if mask is not None and per_user:
        mask = torch.stack([mask, ~mask, mask.roll(1)])
    popularity = np.arange(NUM_ITEMS) % 7
    trie = SidTrie.from_sids(codes, SIZES, TOKENS, popularity)
    found = constrained_beam_search(
        MODEL,
        IDS,
        MASK,
        trie,
        num_beams=num_beams,
        num_items=k,
        normalize=normalize,
        allowed=mask,
        excluded=excluded,
        only=only,
    )
    for user in range(3):
        keep = np.ones(NUM_ITEMS, bool)
        if mask is not None:
            keep &= (mask[user] if per_user else mask).numpy()
        if excluded is not None:
            keep[excluded[user]] = False
        if only is not None and (listed := only[user]) is not None:
            keep &= np.isin(np.arange(NUM_ITEMS), listed)
        rest = np.flatnonzero(keep)
        assert found.num_valid[user] == min(k, len(rest))
        if not len(rest):
            assert (found.items[user] == -1).all()
            assert found.exact_prefix[user] == 0
            continue
        alone = constrained_beam_search(
            MODEL,
            IDS[user : user + 1],
            MASK[user : user + 1],
            SidTrie.from_sids(codes[rest], SIZES, TOKENS, popularity[rest]),
            num_beams=num_beams,
            num_items=k,
            normalize=normalize,
        )
        valid = int(alone.num_valid[0])
        assert found.items[user, :valid].tolist() == rest[alone.items[0, :valid].numpy()].tolist()
        torch.testing.assert_close(found.scores[user], alone.scores[0], atol=1e-4, rtol=0)
        assert found.exact_prefix[user] == alone.exact_prefix[0]


masks = st.lists(st.booleans(), min_size=NUM_ITEMS, max_size=NUM_ITEMS)


@settings(deadline=None, max_examples=60)
@given(
    predicates=st.lists(masks, min_size=1, max_size=2),
    which=st.lists(st.none() | st.integers(0, 1), min_size=4, max_size=4),
    excluded=st.none() | st.lists(item_lists, min_size=4, max_size=4),
    only=st.none() | st.lists(st.none() | item_lists, min_size=4, max_size=4),
    data=st.data(),
)
def test_counts_below_nodes(
    predicates: list[list[bool]],
    which: list[int | None],
    excluded: list[list[int]] | None,
    only: list[list[int] | None] | None,
    data: st.DataObject,
) -> None:
    """A batch of users with other predicates, exclusions and lists; candidates in any order."""
    codes = make_codes(1)
    trie = SidTrie.from_sids(codes, SIZES, TOKENS)
    shared = [Allowed.of(trie, torch.tensor(mask)) for mask in predicates]
    chosen = [None if n is None else shared[n % len(shared)] for n in which]
    filter_ = ItemFilter(trie, 4, chosen, excluded, only)
    sets = []
    for user in range(4):
        left = set(range(NUM_ITEMS))
        if (number := which[user]) is not None:
            left &= set(np.flatnonzero(predicates[number % len(shared)]).tolist())
        if excluded is not None:
            left -= set(excluded[user])
        if only is not None and (listed := only[user]) is not None:
            left &= set(listed)
        sets.append(left)
    users = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=12))
    user_C = torch.tensor(users)
    for level in range(3):
        prefixes = np.unique(codes[:, : level + 1], axis=0)
        node_C = torch.tensor(data.draw(_some(len(prefixes), len(users))))
        expected = [
            len(sets[u] & set(np.flatnonzero((codes[:, : level + 1] == prefixes[n]).all(1))))
            for u, n in zip(users, node_C.tolist(), strict=True)
        ]
        assert filter_.count(level, node_C, user_C).tolist() == expected
        assert filter_.alive(level, node_C, user_C).tolist() == [c > 0 for c in expected]
    for user in range(4):
        alive = filter_.item_alive(torch.arange(NUM_ITEMS), torch.tensor(user))
        assert set(trie.item_of_place[alive].tolist()) == sets[user]


def _some(size: int, count: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, size - 1), min_size=count, max_size=count)


def test_predicates_are_held_once_each() -> None:
    trie = SidTrie.from_sids(make_codes(0), SIZES, TOKENS)
    one, other = (Allowed.of(trie, torch.arange(NUM_ITEMS) % n == 0) for n in (2, 3))
    for predicates, num_sets in (
        ([one] * 50, 1),
        ([one, other] * 25, 2),
        ([one, None, other, None, None] * 10, 3),
        (one, 1),
        (torch.ones(NUM_ITEMS, dtype=torch.bool), 1),
    ):
        sums = ItemFilter(trie, 50, predicates)._sums
        assert sums is not None
        assert len(sums) == num_sets
    sums = ItemFilter(trie, 2, one)._sums
    assert sums is not None
    assert sums.data_ptr() == one.sums.data_ptr()  # no copy
    assert ItemFilter(trie, 2).is_trivial


def test_forms_of_exclusions_agree() -> None:
    trie = SidTrie.from_sids(make_codes(0), SIZES, TOKENS)
    padded = torch.tensor([[3, -1, 7], [-1, -1, -1], [3, 3, 1]])
    forms: list[Any] = [
        padded,
        [[3, 7], [], [3, 1]],
        [np.array([7, 3]), np.array([], np.int32), torch.tensor([1, 3])],
    ]
    node = torch.arange(NUM_ITEMS).expand(3, -1)
    results = [ItemFilter(trie, 3, None, form).item_alive(node) for form in forms]
    assert all(torch.equal(results[0], other) for other in results)
    listed = [ItemFilter(trie, 3, None, None, form).item_alive(node) for form in forms]
    assert torch.equal(listed[0], ~results[0])
    assert all(torch.equal(listed[0], other) for other in listed)
    nothing = ItemFilter(trie, 2, None, [[], []], [None, None])
    assert nothing.item_alive(node[:2]).all()


def test_errors() -> None:
    trie = SidTrie.from_sids(make_codes(0), SIZES, TOKENS)
    wrong_masks = [torch.ones(3, dtype=torch.bool), torch.ones(NUM_ITEMS), torch.ones(3, 30) > 0]
    for mask in wrong_masks:
        with pytest.raises(ValueError, match=r"bool \(30,\) or \(2, 30\) needed"):
            ItemFilter(trie, 2, mask)
    with pytest.raises(ValueError, match="excluded: 2 rows needed, got 1"):
        ItemFilter(trie, 2, None, [[1]])
    with pytest.raises(ValueError, match="only: 2 rows needed, got 3"):
        ItemFilter(trie, 2, only=[[1], None, None])
    with pytest.raises(ValueError, match=r"only: a \(B, E\) tensor needed, got \(2,\)"):
        ItemFilter(trie, 2, only=torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="2 predicates needed, got 1"):
        ItemFilter(trie, 2, [None])
    other = SidTrie.from_sids(make_codes(0), SIZES, TOKENS)
    with pytest.raises(ValueError, match="made for another index"):
        ItemFilter(trie, 2, Allowed.everything(other))
    with pytest.raises(ValueError, match=r"outside 0\.\.29, got 4\.\.30"):
        ItemFilter(trie, 1, None, [[4, 30]])
    with pytest.raises(ValueError, match=r"outside 0\.\.29"):
        ItemFilter(trie, 1, None, [[-2, 3]])
