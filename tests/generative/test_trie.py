import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from dasrec.generative.decoding.offsets import Offsets
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


def padded(sids: list[tuple[int, ...]]) -> list[list[int]]:
    return [[*sid, *[-1] * (len(SIZES) - len(sid))] for sid in sids]


catalogues = st.lists(st.tuples(*(st.integers(0, size - 1) for size in SIZES)), min_size=1)


@settings(deadline=None)
@given(catalogues, st.data())
def test_against_a_python_trie(codes: list[tuple[int, ...]], data: st.DataObject) -> None:
    popularity = data.draw(st.lists(st.integers(0, 3), min_size=len(codes), max_size=len(codes)))
    trie = SidTrie.from_sids(codes, SIZES, tokens_for(SIZES), popularity)
    tree = dict_trie(codes)
    parents: list[tuple[int, ...]] = [()]
    for level in range(len(SIZES)):
        nodes = [(*node, code) for node in parents for code in sorted(tree[node])]
        rows = data.draw(st.lists(st.integers(0, len(parents) - 1)))  # repeated, in any order
        children = trie.children(level, torch.tensor(rows, dtype=torch.int64))
        expected = [
            (r, nodes.index((*parents[p], c)))
            for r, p in enumerate(rows)
            for c in sorted(tree[parents[p]])
        ]
        assert list(zip(children.row_C.tolist(), children.node_C.tolist(), strict=True)) == expected
        assert children.code_C.tolist() == [nodes[node][-1] for _, node in expected]
        assert children.count_R.tolist() == [len(tree[parents[p]]) for p in rows]
        ((low, high),) = trie.place_ranges(level, torch.arange(len(nodes)))
        for i, node in enumerate(nodes):
            below = trie.item_of_place[low[i] : high[i]].tolist()
            assert below == sorted(
                (j for j, sid in enumerate(codes) if sid[: level + 1] == node),
                key=lambda j: (codes[j], -popularity[j], j),
            )
        assert trie.max_branch[level] == max(len(tree[parent]) for parent in parents)
        parents = nodes
    assert [tuple(row) for row in trie.leaf_codes().tolist()] == parents
    assert trie.num_leaves == len(parents) == len(set(codes))
    assert trie.num_items == trie.num_places == len(codes)
    assert trie.item_of_place[trie.place_of_item.long()].tolist() == list(range(len(codes)))
    assert not any(trie.level_padded)
    for leaf, sid in enumerate(parents):
        assert {codes[j] for j in trie.items_of_leaf(leaf).tolist()} == {sid}


any_length = st.lists(
    st.integers(1, 3).flatmap(lambda n: st.tuples(*(st.integers(0, s - 1) for s in SIZES[:n]))),
    min_size=1,
)


@settings(deadline=None)
@given(any_length)
def test_short_sids_with_an_end_token(sids: list[tuple[int, ...]]) -> None:
    """A short SID ends in a code of its own, one more than the level's; then in padding."""
    trie = SidTrie.from_sids(padded(sids), SIZES, tokens_for(SIZES), end_token_id=99)
    ends = (4, 4, 6)
    assert trie.level_sizes == ends
    assert [table[-1].item() for table in trie.level_token_ids[1:]] == [99, 99]
    written = [
        (*sid, 3, 6) if len(sid) == 1 else (*sid, 5) if len(sid) == 2 else sid for sid in sids
    ]
    assert [tuple(row) for row in trie.leaf_codes().tolist()] == sorted(set(written))
    assert trie.level_padded == (False, False, any(len(sid) == 1 for sid in sids))
    for leaf, row in enumerate(sorted(set(written))):
        assert {written[j] for j in trie.items_of_leaf(leaf).tolist()} == {row}


@settings(deadline=None)
@given(any_length)
def test_short_sids_without_an_end_token_begin_no_other(sids: list[tuple[int, ...]]) -> None:
    def build() -> SidTrie:
        return SidTrie.from_sids(padded(sids), SIZES, tokens_for(SIZES))

    clash = [(a, b) for a in sids for b in sids if len(a) < len(b) and b[: len(a)] == a]
    if not clash:
        trie = build()
        written = {(*sid, *SIZES[len(sid) :]) for sid in sids}
        assert [tuple(row) for row in trie.leaf_codes().tolist()] == sorted(written)
        assert trie.level_padded == tuple(any(len(s) <= i for s in sids) for i in range(3))
        return
    with pytest.raises(ValueError, match="begins that of item") as error:
        build()
    found = re.search(
        r"SID of item (\d+) \((\d) codes\) begins that of item (\d+)", str(error.value)
    )
    assert found is not None
    short, length, long = map(int, found.groups())
    assert (sids[short], sids[long]) in clash
    assert len(sids[short]) == length


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


@pytest.mark.parametrize("shared", [True, False])
def test_save_and_load(tmp_path: Path, shared: bool) -> None:
    codes = np.stack(np.unravel_index(np.arange(50), SIZES), axis=1)
    codes[40:] = codes[:10] if shared else codes[40:]
    trie = SidTrie.from_sids(codes, SIZES, tokens_for(SIZES), np.arange(50), "abc")
    for copy in range(8):
        trie.save(tmp_path / f"{copy}.safetensors")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert len(list(tmp_path.iterdir())) == 8  # no temporary file stays
    loaded = SidTrie.load(tmp_path / "0.safetensors", "abc")
    names = ("level_sizes", "level_padded", "max_branch", "fingerprint", "nbytes", "num_leaves")
    for name in names:
        assert getattr(loaded, name) == getattr(trie, name)
    for name in ("tok", "level_token_ids"):
        pairs = list(zip(getattr(loaded, name), getattr(trie, name), strict=True))
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)
    for name in ("item_of_place", "place_of_item"):
        assert torch.equal(getattr(loaded, name), getattr(trie, name))
    for level, tok in enumerate(trie.tok):
        node = torch.arange(len(tok))
        pair = (loaded.place_ranges(level, node), trie.place_ranges(level, node))
        assert all(torch.equal(a, b) for a, b in zip(*(both[0] for both in pair), strict=True))
    assert torch.equal(loaded.leaf_codes(), trie.leaf_codes())
    assert trie.to("cpu") is trie
    assert trie.to("meta").device.type == "meta"
    assert trie.to("meta").nbytes == trie.nbytes


def test_files_that_are_not_this_trie(tmp_path: Path) -> None:
    path = tmp_path / "trie.safetensors"
    SidTrie.from_sids(np.arange(9).reshape(9, 1), (9,), [np.arange(9)], None, "abc").save(path)
    whole = path.read_bytes()
    with pytest.raises(ValueError, match="trie of other semantic IDs, got 'abc' instead of 'xyz'"):
        SidTrie.load(path, "xyz")
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="damaged, its checksum differs; build it again"):
        SidTrie.load(path)
    path.write_bytes(whole[:-4])
    with pytest.raises(ValueError, match="not a trie"):
        SidTrie.load(path)
    save_file({"tok.0": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="not a trie"):
        SidTrie.load(path)
    with pytest.raises(FileNotFoundError):
        SidTrie.load(tmp_path / "none")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trie.safetensors"
    trie = SidTrie.from_sids([[0], [1]], (2,), [[0, 1]])
    trie.save(path)
    before = path.read_bytes()

    def fail(*args: Any) -> None:
        Path(args[1]).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("dasrec.generative.decoding.trie_file.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        trie.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "values",
    [[0], [0, 1], [0, 0, 0, 7], range(0, 300, 3), range(0, 10**7, 9999), [*range(70), 2**31 - 1]],
)
def test_offsets_keep_every_value(values: Any) -> None:
    given_values = np.array(values)
    offsets = Offsets.of(given_values)
    assert offsets.dense().tolist() == given_values.tolist()
    assert len(offsets) == len(given_values) - 1
    some = torch.tensor([[0, len(given_values) - 1], [len(given_values) // 2, 0]])
    assert torch.equal(offsets[some], torch.from_numpy(given_values)[some])


def test_big_codebooks_and_size() -> None:
    """Eight levels of 256 do not fit one 64-bit number; codes above 32767 need int32."""
    codes = np.random.default_rng(0).integers(0, 256, (1000, 8))
    codes[500:] = codes[:500]
    trie = SidTrie.from_sids(codes, [256] * 8, [np.arange(256)] * 8)
    assert torch.equal(trie.leaf_codes(), torch.from_numpy(np.unique(codes, axis=0)))
    assert trie.tok[0].dtype == torch.uint8
    wide = SidTrie.from_sids([[65535], [3]], [65536], [np.arange(65536)])
    assert wide.tok[0].tolist() == [3, 65535]
    items = np.stack(np.unravel_index(np.arange(20_000) * 31 % 2**18, (64, 64, 64)), axis=1)
    large = SidTrie.from_sids(items, [64] * 3, [np.arange(64)] * 3)
    assert large.nbytes < 15 * len(items)
    assert large.describe() == {
        "items": 20_000,
        "sids": 20_000,
        "nodes": [len(tok) for tok in large.tok],
        "max_branch": list(large.max_branch),
        "bytes": large.nbytes,
        "bytes_per_item": large.nbytes / 20_000,
    }


@pytest.mark.parametrize(
    ("codes", "sizes", "tokens", "message"),
    [
        (np.zeros((0, 2)), (2, 2), [[0, 1], [2, 3]], "non-empty"),
        ([[0, 0]], (2,), [[0, 1]], "2 levels, but 1 level sizes"),
        ([[0, 0]], (2, 2), [[0, 1]], "one table per level needed, got 1 for 2"),
        ([[0.5, 0]], (2, 2), [[0, 1], [2, 3]], "integers needed, got shape .* of float64"),
        ([[0, -1, 1]], (2,) * 3, [[0, 1], [2, 3], [4, 5]], "item 0 has -1 before a code"),
        ([[0, -2]], (2, 2), [[0, 1], [2, 3]], "a code outside its level"),
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
