from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dasrec.generative.decoding.processors import SidTrieLogitsProcessor, prefix_allowed_tokens_fn
from dasrec.generative.decoding.trie import SidTrie

SIZES = (4, 3, 5)


def tokens_for(sizes: tuple[int, ...], seed: int = 0) -> list[Any]:
    ids = np.random.default_rng(seed).permutation(2 * sum(sizes))[: sum(sizes)]
    return np.split(ids, np.cumsum(sizes)[:-1])


def dict_trie(codes: list[tuple[int, ...]]) -> dict[tuple[int, ...], set[int]]:
    """Every prefix -> the codes that may follow."""
    tree: dict[tuple[int, ...], set[int]] = {}
    for sid in codes:
        for depth, code in enumerate(sid):
            tree.setdefault(sid[:depth], set()).add(code)
    return tree


catalogues = st.lists(st.tuples(*(st.integers(0, size - 1) for size in SIZES)), min_size=1)


@settings(deadline=None)
@given(catalogues, st.data())
def test_against_a_python_trie(codes: list[tuple[int, ...]], data: st.DataObject) -> None:
    popularity = data.draw(st.lists(st.integers(0, 3), min_size=len(codes), max_size=len(codes)))
    trie = SidTrie.from_sids(codes, SIZES, tokens_for(SIZES), popularity)
    tree = dict_trie(codes)
    nodes: list[tuple[int, ...]] = [()]
    for level in range(len(SIZES)):
        nodes = [(*node, code) for node in nodes for code in sorted(tree[node])]
        assert len(trie.tok[level]) == len(nodes)
        assert trie.tok[level].tolist() == [node[-1] for node in nodes]
        low, high = trie.item_range(level, torch.arange(len(nodes)))
        for i, node in enumerate(nodes):
            below = trie.item_order[low[i] : high[i]].tolist()
            assert below == sorted(
                (j for j, sid in enumerate(codes) if sid[: level + 1] == node),
                key=lambda j: (codes[j], -popularity[j], j),
            )
        if level + 1 < len(SIZES):
            children, child_codes, real = trie.children(level + 1, torch.arange(len(nodes)))
            for i, node in enumerate(nodes):
                assert child_codes[i][real[i]].tolist() == sorted(tree[node])
            assert children[real].tolist() == list(range(len(trie.tok[level + 1])))
    assert [tuple(row) for row in trie.leaf_codes().tolist()] == nodes
    assert trie.num_leaves == len(nodes) == len(set(codes))
    assert trie.num_items == len(codes)
    for leaf, sid in enumerate(nodes):
        assert {codes[j] for j in trie.items_of_leaf(leaf).tolist()} == {sid}
    assert trie.max_branch[0] == len(tree[()])
    for level in range(1, len(SIZES)):
        assert trie.max_branch[level] == max(
            len(v) for prefix, v in tree.items() if len(prefix) == level
        )


@settings(deadline=None)
@given(catalogues, st.lists(st.integers(0, 23), max_size=2), st.integers(0, 2))
def test_constraint_callbacks(
    codes: list[tuple[int, ...]], tail: list[int], prompt_length: int
) -> None:
    tokens = tokens_for(SIZES)
    trie = SidTrie.from_sids(codes, SIZES, tokens)
    row = torch.tensor([0] * prompt_length + tail)
    code_of = [{int(t): c for c, t in enumerate(table)} for table in tokens]
    prefix = tuple(code_of[i].get(t, -1) for i, t in enumerate(tail))
    level = len(tail)
    # After a prefix that no item has, every code of the level: generate needs some token.
    allowed = dict_trie(codes).get(prefix, set(range(SIZES[level])))
    expected = sorted(int(tokens[level][code]) for code in allowed)
    assert sorted(prefix_allowed_tokens_fn(trie, prompt_length)(0, row)) == expected
    on_a_path = torch.tensor([0] * prompt_length + [int(tokens[i][codes[0][i]]) for i in range(2)])
    rows = torch.stack([row, on_a_path[: len(row)]])
    scores = SidTrieLogitsProcessor(trie, prompt_length)(rows, torch.ones(2, 24))
    assert scores[0].isfinite().nonzero().flatten().tolist() == expected
    assert scores[1].isfinite().sum() == len(dict_trie(codes)[codes[0][:level]])
    assert (scores[scores.isfinite()] == 1).all()


def test_save_and_load(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 3, (50, 3))
    trie = SidTrie.from_sids(codes, SIZES, tokens_for(SIZES), np.arange(50), "abc")
    trie.save(tmp_path / "trie.safetensors")
    for copy in range(8):
        trie.save(tmp_path / f"{copy}.safetensors")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    loaded = SidTrie.load(tmp_path / "trie.safetensors", "abc")
    for name in ("level_sizes", "max_branch", "fingerprint", "num_items", "num_leaves", "nbytes"):
        assert getattr(loaded, name) == getattr(trie, name)
    for name in ("tok", "child_start", "leaf_lo", "level_token_ids"):
        pairs = list(zip(getattr(loaded, name), getattr(trie, name), strict=True))
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)
    assert torch.equal(loaded.item_order, trie.item_order)
    assert torch.equal(loaded.item_start, trie.item_start)
    assert torch.equal(loaded.leaf_codes(), trie.leaf_codes())
    with pytest.raises(ValueError, match="trie of other semantic IDs, got 'abc' instead of 'xyz'"):
        SidTrie.load(tmp_path / "trie.safetensors", "xyz")
    assert trie.to("cpu") is trie
    assert trie.to("meta").device.type == "meta"


def test_big_codebooks_and_size() -> None:
    """Eight levels of 256 do not fit one 64-bit number; codes above 32767 need int32."""
    codes = np.random.default_rng(0).integers(0, 256, (1000, 8))
    codes[500:] = codes[:500]
    trie = SidTrie.from_sids(codes, [256] * 8, [np.arange(256)] * 8)
    assert torch.equal(trie.leaf_codes(), torch.from_numpy(np.unique(codes, axis=0)))
    assert trie.tok[0].dtype == torch.int16
    wide = SidTrie.from_sids([[65535], [3]], [65536], [np.arange(65536)])
    assert wide.tok[0].tolist() == [3, 65535]
    items = np.stack(np.unravel_index(np.arange(20_000) * 31 % 2**18, (64, 64, 64)), axis=1)
    large = SidTrie.from_sids(items, [64] * 3, [np.arange(64)] * 3)
    assert large.nbytes < 25 * len(items)


@pytest.mark.parametrize(
    ("codes", "sizes", "tokens", "message"),
    [
        (np.zeros((0, 2)), (2, 2), [[0, 1], [2, 3]], "non-empty"),
        ([[0, 0]], (2,), [[0, 1]], "2 levels, but 1 level sizes"),
        ([[0, 2]], (2, 2), [[0, 1], [2, 3]], "a code outside its level"),
        ([[-1, 0]], (2, 2), [[0, 1], [2, 3]], "a code outside its level"),
        ([[0, 0]], (2, 2), [[0, 1], [2, 2]], r"level_token_ids\[1\]: 2 different"),
        ([[0, 0]], (2, 2), [[0, 1, 2], [2, 3]], r"level_token_ids\[0\]: 2 different"),
    ],
)
def test_errors(codes: Any, sizes: Any, tokens: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SidTrie.from_sids(codes, sizes, tokens)


def test_popularity_must_fit() -> None:
    with pytest.raises(ValueError, match="popularity: one number per item"):
        SidTrie.from_sids([[0], [1]], (2,), [[0, 1]], popularity=[1.0])
