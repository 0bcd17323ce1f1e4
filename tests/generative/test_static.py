from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from tests.generative.test_beams import FAMILIES, make
from tests.generative.test_search import NORMALIZERS, make_prompts, make_trie

from dasrec.generative.decoding import fixed_step
from dasrec.generative.decoding.catalogue import Catalogue
from dasrec.generative.decoding.fixed_index import FixedIndex
from dasrec.generative.decoding.head import Normalize
from dasrec.generative.decoding.search import SearchResult, constrained_beam_search
from dasrec.generative.decoding.static import FixedShapeSearch
from dasrec.generative.decoding.trie import SidTrie

SHAPE: dict[str, Any] = {"batch_size": 2, "prompt_lengths": (16, 10), "num_beams": 6}


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


def assert_same(found: SearchResult, expected: SearchResult) -> None:
    assert torch.equal(found.items, expected.items)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
    assert torch.equal(found.num_valid, expected.num_valid)
    assert torch.equal(found.exact_prefix, expected.exact_prefix)


@pytest.mark.parametrize("name", FAMILIES)
def test_fixed_shapes_give_what_any_shapes_give(name: str) -> None:
    model, (trie, _) = make(name), make_trie()
    search = FixedShapeSearch(model, trie, num_items=4, **SHAPE)
    for batch, length in ((5, 9), (1, 10), (4, 13)):  # padded rows, padded lengths, full batches
        prompts = make_prompts(batch, length)
        expected = constrained_beam_search(model, *prompts, trie, num_beams=6, num_items=4)
        assert_same(search(*prompts), expected)


@pytest.mark.parametrize("normalize", NORMALIZERS)
@pytest.mark.parametrize("num_beams", [1, 7, 99])
def test_every_normaliser_and_width(
    num_beams: int, normalize: Normalize, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixed_step, "_CANDIDATES_PER_CHUNK", 100)  # one user at a time
    model, (trie, _), prompts = make("qwen3"), make_trie(), make_prompts(5)
    options: dict[str, Any] = {"num_beams": num_beams, "num_items": 3, "normalize": normalize}
    search = FixedShapeSearch(model, trie, **(SHAPE | options))
    assert_same(search(*prompts), constrained_beam_search(model, *prompts, trie, **options))


def test_more_items_asked_for_than_there_are() -> None:
    model, (trie, _), prompts = make("gpt2"), make_trie(5), make_prompts()
    search = FixedShapeSearch(model, trie, num_items=9, **SHAPE)
    found = search(*prompts)
    assert_same(found, constrained_beam_search(model, *prompts, trie, num_beams=6, num_items=9))
    assert found.num_valid.tolist() == [5] * 3


@pytest.mark.parametrize("k", [1, 2, 4, 7])
def test_items_that_share_a_sid(k: int) -> None:
    model, prompts = make("llama"), make_prompts(2)
    codes = np.array([[0, 0, 0], [1, 1, 1], [0, 0, 0], [1, 1, 1], [0, 0, 0], [2, 0, 1]])
    tokens = [np.arange(1, 7), np.arange(7, 12), np.arange(12, 19)]
    trie = SidTrie.from_sids(codes, (6, 5, 7), tokens, popularity=[1, 5, 9, 5, 3, 0])
    search = FixedShapeSearch(model, trie, num_items=k, **SHAPE)
    assert_same(
        search(*prompts), constrained_beam_search(model, *prompts, trie, num_beams=6, num_items=k)
    )


@pytest.mark.parametrize("normalize", NORMALIZERS)
def test_allowed_and_excluded_items(normalize: Normalize) -> None:
    model, (trie, _), prompts = make("qwen3"), make_trie(), make_prompts(5)
    rng = np.random.default_rng(0)
    allowed = torch.from_numpy(rng.random(trie.num_items) < 0.5)
    # forbidden ones, repeated ones, none, and all
    drawn, most = rng.integers(0, 70, 30), rng.permutation(70)[:60]
    excluded = [drawn.tolist(), [3, 3, 9], [], list(range(70)), most.tolist()]
    options: dict[str, Any] = {"num_items": 6, "normalize": normalize, "allowed": allowed}
    search = FixedShapeSearch(model, trie, max_excluded=70, **SHAPE, **options)
    found = search(*prompts, excluded)
    expected = constrained_beam_search(
        model, *prompts, trie, num_beams=6, excluded=excluded, **options
    )
    assert_same(found, expected)
    assert found.num_valid[3] == 0
    without = constrained_beam_search(model, *prompts, trie, num_beams=6, **options)
    assert_same(search(*prompts), without)
    assert not torch.equal(without.items, found.items)


def test_an_item_excluded_among_those_of_its_sid() -> None:
    model, prompts = make("llama"), make_prompts(2)
    codes = np.array([[0, 0, 0], [1, 1, 1], [0, 0, 0], [1, 1, 1], [0, 0, 0], [2, 0, 1]])
    tokens = [np.arange(1, 7), np.arange(7, 12), np.arange(12, 19)]
    trie = SidTrie.from_sids(codes, (6, 5, 7), tokens, popularity=[1, 5, 9, 5, 3, 0])
    excluded = torch.tensor([[2, 5, -1], [1, 3, 0]])
    search = FixedShapeSearch(model, trie, num_items=4, max_excluded=3, **SHAPE)
    expected = constrained_beam_search(
        model, *prompts, trie, num_beams=6, num_items=4, excluded=excluded
    )
    assert_same(search(*prompts, excluded), expected)


def test_a_living_catalogue_is_copied_as_it_stands() -> None:
    model, (trie, codes), prompts = make("llama"), make_trie(), make_prompts()
    catalogue = Catalogue(trie)
    catalogue.retire([0, 5, 9, 11])
    free = np.setdiff1d(np.arange(210), np.ravel_multi_index(codes.T, (6, 5, 7)))[[0, 50, 90]]
    new = np.stack(np.unravel_index(free, (6, 5, 7)), 1)
    catalogue.add(np.concatenate([new, codes[[3, 5]]]))  # three SIDs are new, two are shared
    snapshot = catalogue.snapshot()
    search = FixedShapeSearch(model, snapshot, num_items=71, **(SHAPE | {"num_beams": 99}))
    found = search(*prompts)
    assert_same(
        found, constrained_beam_search(model, *prompts, snapshot, num_beams=99, num_items=71)
    )
    assert set(found.items[0].tolist()) == set(range(len(codes) + 5)) - {0, 5, 9, 11}


@pytest.mark.parametrize(
    ("excluded", "message"),
    [
        ([[1], [2]], "excluded: 3 rows needed, got 2"),
        ([[1], [2, 3, 4], []], "excluded: 3 items of user 1, but max_excluded is 2"),
        ([[1], [70], []], r"excluded: item index outside 0\.\.69, got -1\.\.70"),
        ([[1], [-2], []], r"excluded: item index outside 0\.\.69, got -2\.\.1"),
    ],
)
def test_lists_that_cannot_be_excluded(excluded: list[list[int]], message: str) -> None:
    search = FixedShapeSearch(make("llama"), make_trie()[0], num_items=3, max_excluded=2, **SHAPE)
    with pytest.raises(ValueError, match=message):
        search(*make_prompts(), excluded)


def test_an_empty_catalogue() -> None:
    allowed = torch.zeros(70, dtype=torch.bool)
    with pytest.raises(ValueError, match="allowed: no item is left; allow some"):
        FixedShapeSearch(make("llama"), make_trie()[0], num_items=3, allowed=allowed, **SHAPE)


@pytest.mark.parametrize("end", [None, 30])
@pytest.mark.parametrize("normalize", NORMALIZERS)
def test_short_sids(normalize: Normalize, end: int | None) -> None:
    model, prompts = make("qwen3"), make_prompts()
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, 4, 40), rng.integers(0, 3, 40), rng.integers(0, 7, 40)], 1)
    short = [[4, -1, -1], [5, -1, -1], [0, 3, -1], [1, 4, -1], [1, 4, -1]]
    codes = np.concatenate([codes, short])
    tokens = [np.arange(1, 7), np.arange(7, 12), np.arange(12, 19)]
    trie = SidTrie.from_sids(codes, (6, 5, 7), tokens, end_token_id=end)
    options: dict[str, Any] = {"num_items": 45, "normalize": normalize, "num_beams": 45}
    search = FixedShapeSearch(model, trie, **(SHAPE | options))
    found = search(*prompts)
    assert_same(found, constrained_beam_search(model, *prompts, trie, **options))
    assert found.num_valid.tolist() == [45] * 3


def test_equal_scores_go_to_the_lower_sid() -> None:
    model, (trie, codes), prompts = make("llama"), make_trie(), make_prompts()
    model.lm_head.weight.data.zero_()
    found = FixedShapeSearch(model, trie, num_items=6, **SHAPE)(*prompts)
    by_sid = sorted(range(len(codes)), key=lambda i: tuple(codes[i]))
    assert found.items.tolist() == [by_sid[:6]] * 3


def test_weights_may_change_in_place() -> None:
    model, (trie, _), prompts = make("qwen3"), make_trie(), make_prompts()
    search = FixedShapeSearch(model, trie, num_items=6, **SHAPE)
    before = search(*prompts)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3)
    assert not torch.equal(search(*prompts).scores, before.scores)
    expected = constrained_beam_search(model, *prompts, trie, num_beams=6, num_items=6)
    assert_same(search(*prompts), expected)


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "opt"])
def test_no_shape_depends_on_what_the_tensors_hold(name: str) -> None:
    """Reading a number back from the device is what a CUDA graph cannot record."""
    model, (trie, _), prompts = make(name), make_trie(), make_prompts(2, 10)
    search = FixedShapeSearch(model, trie, num_items=4, **SHAPE)
    search(*prompts)
    ids, length = torch.zeros(2, 10, dtype=torch.int64), torch.ones(2, dtype=torch.int64)

    class NoReading(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
            reads = ("_local_scalar_dense", "nonzero", "repeat_interleave", "masked_select")
            assert func.overloadpacket.__name__ not in reads, func
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), NoReading():
        search._run(ids, length, torch.zeros(2, 0, dtype=torch.int32))


@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("qwen3", "eager"),
        pytest.param("gpt2", "eager", marks=pytest.mark.slow),
        pytest.param("gemma3", "inductor", marks=pytest.mark.slow),
    ],
)
def test_compiled(name: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The quick backend traces as the other does, and fails where the model cannot be one graph.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    model, (trie, _) = make(name), make_trie()
    search = FixedShapeSearch(model, trie, num_items=4, compiled=True, **SHAPE)
    prompts = make_prompts(3, 13)
    expected = constrained_beam_search(model, *prompts, trie, num_beams=6, num_items=4)
    assert_same(search(*prompts), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_graph(dtype: torch.dtype, compiled: bool) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model, (trie, _) = make("qwen3").to("cuda", dtype), make_trie()
    eager, graph = (
        FixedShapeSearch(model, trie, num_items=4, compiled=compiled, cuda_graph=on, **SHAPE)
        for on in (False, True)
    )
    for batch, length in ((5, 9), (1, 10), (4, 13)):
        prompts = [x.to("cuda") for x in make_prompts(batch, length)]
        assert_same(graph(*prompts), eager(*prompts))


def test_a_copy_of_an_index_reads_as_the_index() -> None:
    trie, codes = make_trie()
    index = FixedIndex(trie)
    node, path = torch.zeros(1, 1, dtype=torch.int64), np.zeros((1, 0), np.int64)
    for level in range(3):
        found = index.children(level, node)
        real = found.real_BWM[0]
        row = np.nonzero(real.numpy())[0]
        path = np.concatenate([path[row], found.code_BWM[0][real].numpy()[:, None]], 1)
        node = found.node_BWM[0][real].unsqueeze(0)
        assert node.tolist() == [list(range(node.shape[1]))]
    items = index.items(node, torch.zeros(1, 0))[0]
    np.testing.assert_array_equal(codes[items[:, 0]], path)
    assert sorted(items[items >= 0].tolist()) == list(range(len(codes)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: at least 1 needed, got 0"),
        ({"num_items": 0}, "num_items: at least 1 needed, got 0"),
        ({"prompt_lengths": ()}, "prompt_lengths: at least 1 needed, got 0"),
        ({"prompt_lengths": (9, 99)}, "prompt and SID take 101 positions"),
        ({"cuda_graph": True}, "cuda_graph: needs a model on a CUDA device, not cpu"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FixedShapeSearch(make("llama"), make_trie()[0], **(SHAPE | {"num_items": 3} | options))


@pytest.mark.parametrize("name", ["qwen3_next", "lfm2"])
def test_models_that_take_no_tree(name: str) -> None:
    with pytest.raises(ValueError, match="model: its attention cannot take the mask of a tree"):
        FixedShapeSearch(make(name), make_trie()[0], num_items=3, **SHAPE)


def test_prompts_that_are_too_long() -> None:
    search = FixedShapeSearch(make("llama"), make_trie()[0], num_items=3, **SHAPE)
    with pytest.raises(ValueError, match="17 tokens, but prompt_lengths end at 16; shorten"):
        search(*make_prompts(3, 17))
