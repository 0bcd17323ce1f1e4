"""Many users at once, with numbers of their own, through a model that is a table.

`TableHead` gives a user's code a probability that depends on the level alone, so the score of any
item is a sum of three numbers and every search can be compared with all items.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.generative.test_search import (
    NORMALIZERS,
    make_model,
    make_prompts,
)
from tests.generative.test_search import make_trie as make_small_trie
from torch import Tensor

from dasrec.generative.decoding import search as search_module
from dasrec.generative.decoding.candidates import Frontier, extend, ranking_key, root
from dasrec.generative.decoding.filters import ItemFilter
from dasrec.generative.decoding.head import LevelHead, Normalize
from dasrec.generative.decoding.laps import Laps
from dasrec.generative.decoding.search import SearchResult, constrained_beam_search, keep_best
from dasrec.generative.decoding.trie import SidTrie

SIZES = (32, 16, 64)


class TableHead:
    """Stands for `LevelHead`: the state of a beam is the number of its user."""

    config = SimpleNamespace(_attn_implementation="sdpa")
    arguments = frozenset({"position_ids"})
    dtype = torch.float32

    def __init__(self, logits: list[Tensor]) -> None:
        self.table = logits  # per level (B, K)

    def states(self, last_only: bool = False, **inputs: Any) -> Tensor:
        batch, length = inputs["input_ids"].shape
        return torch.arange(batch).view(-1, 1, 1).expand(-1, 1 if last_only else length, 1).float()

    def logits(self, states: Tensor, level: int) -> Tensor:
        return self.table[level][states[..., 0].long()]

    def logits_at(self, states: Tensor, level: int, row: Tensor, code: Tensor) -> Tensor:
        return self.logits(states, level)[row, code]

    def log_normalizer(self, states: Tensor, logits: Tensor, normalize: Normalize) -> Tensor:
        return logits.logsumexp(-1)


def make_head(batch: int, seed: int = 0, scale: float = 3.0) -> Any:
    rng = torch.Generator().manual_seed(seed)
    return TableHead([scale * torch.randn(batch, size, generator=rng) for size in SIZES])


def make_catalogue(num_items: int, seed: int = 0) -> tuple[SidTrie, npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, SIZES, (num_items, 3))  # some SIDs are shared
    tokens = np.split(np.arange(sum(SIZES)), np.cumsum(SIZES)[:-1])
    return SidTrie.from_sids(codes, SIZES, tokens), codes


def run(head: Any, trie: SidTrie, **options: Any) -> SearchResult:
    batch = len(head.table[0])
    ids = torch.ones(batch, 2, dtype=torch.int64)
    return constrained_beam_search(torch.nn.Identity(), ids, ids, trie, head=head, **options)


def scores_of_all(head: Any, codes: npt.NDArray[np.int64]) -> Tensor:
    """(B, I) under the normaliser "level"."""
    parts = [t.log_softmax(-1)[:, codes[:, level]] for level, t in enumerate(head.table)]
    return torch.stack(parts).sum(0)


def test_a_hundred_thousand_items_and_none_invalid() -> None:
    trie, codes = make_catalogue(8_000)
    rng = np.random.default_rng(1)
    batch, k = 1_000, 50
    for round_ in range(2):
        head = make_head(batch, seed=round_)
        allowed = torch.from_numpy(rng.random(len(codes)) < 0.3)
        every = scores_of_all(head, codes)
        worst = rng.integers(0, len(codes), (batch, 30))  # some twice, some not allowed anyway
        excluded = torch.cat([torch.from_numpy(worst), every.topk(20).indices], 1)
        found = run(
            head, trie, num_beams=k, num_items=k, allowed=allowed, excluded=excluded, certify=False
        )
        assert (found.num_valid == k).all()
        assert allowed[found.items].all()
        assert (found.items.sort(dim=1).values.diff(dim=1) > 0).all()
        was_excluded = torch.zeros_like(every, dtype=torch.bool).scatter_(1, excluded, True)
        assert not was_excluded.gather(1, found.items).any()
        torch.testing.assert_close(every.gather(1, found.items), found.scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_a_wide_search_ranks_every_item(seed: int) -> None:
    trie, codes = make_catalogue(3_000, seed)
    head = make_head(8, seed)
    found = run(head, trie, num_beams=3_000, num_items=200)
    expected = scores_of_all(head, codes)
    torch.testing.assert_close(found.scores, expected.topk(200).values, atol=1e-4, rtol=0)
    torch.testing.assert_close(expected.gather(1, found.items), found.scores, atol=1e-4, rtol=0)
    assert (found.exact_prefix == 200).all()


@pytest.mark.parametrize("normalize", NORMALIZERS)
def test_every_user_has_its_own_numbers(normalize: Normalize) -> None:
    model, (trie, _), (ids, mask) = make_model("qwen3"), make_small_trie(), make_prompts(5)
    num_beams, num_items = [1, 9, 30, 2, 4], [3, 1, 6, 2, 5]
    excluded = [[1, 2], [], [5], list(range(66)), []]

    def search(rows: slice, beams: Any, items: Any) -> SearchResult:
        return constrained_beam_search(
            model,
            ids[rows],
            mask[rows],
            trie,
            num_beams=beams,
            num_items=items,
            normalize=normalize,
            excluded=excluded[rows],
        )

    together = search(slice(None), num_beams, torch.tensor(num_items))
    assert together.items.shape == (5, 6)
    for b, (beams, k) in enumerate(zip(num_beams, num_items, strict=True)):
        alone = search(slice(b, b + 1), beams, k)
        assert together.items[b].tolist() == [*alone.items[0].tolist(), *[-1] * (6 - k)]
        torch.testing.assert_close(together.scores[b, :k], alone.scores[0], atol=1e-4, rtol=0)
        assert together.scores[b, k:].isneginf().all()
        assert together.num_valid[b] == alone.num_valid[0]
        assert together.exact_prefix[b] == alone.exact_prefix[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": [1, 2]}, "num_beams: one number, or one for each of 3 users needed"),
        ({"num_items": [1, 0, 1]}, "num_items: at least 1 needed, got 0"),
        ({"num_beams": [[1], [1], [1]]}, r"num_beams: .* got shape \(3, 1\)"),
    ],
)
def test_numbers_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    trie, _ = make_catalogue(10)
    with pytest.raises(ValueError, match=message):
        run(make_head(3), trie, **({"num_beams": 1, "num_items": 1} | options))


@pytest.mark.parametrize("normalize", NORMALIZERS)
@pytest.mark.parametrize("filtered", [False, True])
def test_candidates_are_all_living_children(normalize: Normalize, filtered: bool) -> None:
    trie, codes = make_catalogue(400)
    head = make_head(3)
    allowed = torch.rand(400, generator=torch.Generator().manual_seed(0)) < 0.2
    filter_ = ItemFilter(trie, 3, allowed if filtered else None)
    keep = allowed.numpy() if filtered else np.ones(400, bool)
    level0 = np.unique(codes[:, 0])
    node = torch.tensor([[3, 0, 5], [7, 2, 7], [1, 4, 6]])
    score = torch.tensor([[-1.0, -2.0, -0.5], [0.0, -3.0, float("-inf")], [-1.0, -1.0, -9.0]])
    frontier = Frontier(node, score, node, node, torch.tensor([[1, 0, 2]] * 3), node > 99)
    states = torch.arange(3.0).view(3, 1, 1).expand(3, 3, 1)
    laps = Laps(None, states.device)
    found = extend(states, head, trie, filter_, frontier, 1, normalize, laps)
    prefixes = np.unique(codes[:, :2], axis=0)
    expected = {}
    for user in range(3):
        for beam in range(3):
            first = level0[int(node[user, beam])]
            below = codes[(codes[:, 0] == first) & keep][:, 1]
            logits = head.table[1][user]
            over = logits[np.unique(below)] if normalize == "trie" else logits
            for code in np.unique(codes[codes[:, 0] == first][:, 1]):
                where = int(np.flatnonzero((prefixes == (first, code)).all(1))[0])
                value = float(score[user, beam] + logits[code] - over.logsumexp(0))
                expected[user, beam, where] = value if code in below else float("-inf")
    keys = zip(
        (found.row_C // 3).tolist(), (found.row_C % 3).tolist(), found.node_C.tolist(), strict=True
    )
    got = dict(zip(keys, found.score_C.tolist(), strict=True))
    assert got.keys() == expected.keys()
    assert got == pytest.approx(expected, abs=1e-5)
    counts = [sum(key[0] == user for key in expected) for user in range(3)]
    assert found.real_BN.sum(1).tolist() == counts
    for user, row in enumerate(found.padded(found.row_C // 3, -1).tolist()):
        assert row == [user] * counts[user] + [-1] * (max(counts) - counts[user])


def test_keys_order_by_score_then_by_sid() -> None:
    score = torch.tensor([0.0, -0.0, -1.5, -1e-30, 2.5, float("-inf"), -1.5, 3e38])
    order = torch.tensor([7, 3, 9, 1, 2, 0, 4, 2**32 - 1])
    expected = sorted(range(8), key=lambda i: (-float(score[i]), int(order[i])))
    assert ranking_key(score, order).argsort(descending=True).tolist() == expected


@pytest.mark.parametrize("width", [1, 7, 40])
def test_ties_go_to_the_lower_sid_at_every_level(width: int) -> None:
    """Few different scores that add without rounding: ties between children of unequal beams."""
    trie, codes = make_catalogue(2_000)
    head = make_head(6)
    head.table = [-(table.argsort(1).argsort(1) // 3).float() for table in head.table]
    head.log_normalizer = lambda states, logits, normalize: torch.zeros(logits.shape[:-1])
    found = run(head, trie, num_beams=width, num_items=width)
    for user in range(6):
        beams: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        for level, table in enumerate(head.table):
            grown = [
                (score + float(table[user, code]), (*sid, int(code)))
                for score, sid in beams
                for code in np.unique(codes[(codes[:, :level] == sid).all(1), level])
            ]
            beams = sorted(grown, key=lambda beam: (-beam[0], beam[1]))[:width]
        leaves = [tuple(codes[item]) for item in found.items[user].tolist()]
        expected = [sid for _, sid in beams for _ in range((codes == sid).all(1).sum())]
        assert leaves == expected[:width]


@pytest.mark.parametrize("mode", ["tree", "expand"])
def test_nothing_is_run_below_a_single_allowed_item(
    mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (trie, _), (ids, mask) = make_model("qwen3"), make_small_trie(), make_prompts(4)
    allowed = torch.rand(70, generator=torch.Generator().manual_seed(0)) < 0.5
    seen: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].numel())
    )

    def search(num_beams: int) -> tuple[SearchResult, int]:
        seen.clear()
        result = constrained_beam_search(
            model,
            ids,
            mask,
            trie,
            num_beams=num_beams,
            num_items=num_beams,
            normalize="trie",
            allowed=allowed,
            excluded=[[], list(range(0, 70, 3)), list(range(70)), [1]],
            mode=mode,
        )
        return result, sum(seen)

    for num_beams in (3, 10, 40):
        short, few = search(num_beams)
        with monkeypatch.context() as patch:
            patch.setattr(search_module, "_live", lambda *args: None)
            plain, many = search(num_beams)
        assert few < many if num_beams == 40 else few <= many  # users run in one rectangle
        assert torch.equal(short.items, plain.items)
        assert torch.equal(short.exact_prefix, plain.exact_prefix)
        torch.testing.assert_close(short.scores, plain.scores, atol=1e-5, rtol=0)


def test_timings_name_the_parts() -> None:
    model, (trie, _), (ids, mask) = make_model("qwen3"), make_small_trie(), make_prompts()
    timings = {"head": 100.0}
    timed = constrained_beam_search(
        model, ids, mask, trie, num_beams=5, num_items=5, timings=timings
    )
    plain = constrained_beam_search(model, ids, mask, trie, num_beams=5, num_items=5)
    assert all(torch.equal(a, b) for a, b in zip(timed, plain, strict=True))
    assert timings.keys() == {"prefill", "body", "head", "constraint"}
    assert all(value > 0 for value in timings.values())
    assert timings["head"] > 100  # added to what was there


def test_widths_of_users_at_one_level() -> None:
    trie, _ = make_catalogue(2_000)
    head, width = make_head(3), torch.tensor([2, 5, 99])
    states = torch.arange(3.0).view(3, 1, 1)
    laps = Laps(None, states.device)
    filter_ = ItemFilter(trie, 3)
    candidates = extend(states, head, trie, filter_, root(3, states.device), 0, "level", laps)
    frontier, dropped = keep_best(candidates, trie, 0, width)
    scores = (
        head.table[0].log_softmax(-1)[:, trie.tok[0].long()].sort(dim=1, descending=True).values
    )
    assert frontier.score.shape == (3, 32)
    for user, kept in enumerate([2, 5, 32]):
        torch.testing.assert_close(frontier.score[user, :kept], scores[user, :kept])
        assert frontier.score[user, kept:].isneginf().all()
    torch.testing.assert_close(dropped[:2], scores[[0, 1], [2, 5]])
    assert dropped[2].isneginf()


@pytest.mark.parametrize("name", ["phi", "granite", "gemma2", "gpt2"])
def test_single_logits_are_those_of_the_level(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (trie, _) = make_model(name, "eager"), make_small_trie()
    if name == "phi":
        torch.nn.init.normal_(model.lm_head.bias)
    head = LevelHead(model, trie.level_token_ids)
    states, row, code = torch.randn(100, 24), torch.randint(0, 100, (15,)), torch.arange(15) % 7
    expected = head.logits(states, 2)[row, code]
    monkeypatch.setattr("dasrec.generative.decoding.head._PRODUCTS_ON_CPU", 24 * 4)  # four parts
    whole = []
    monkeypatch.setattr(head, "logits", lambda *args: whole.append(args))
    torch.testing.assert_close(head.logits_at(states, 2, row, code), expected)
    assert not whole  # no product with all rows of the level
