from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from tests.generative.test_candidate_scores import TOKENS, colliding_codes
from tests.generative.test_search import NORMALIZERS, SIZES, make_model, make_prompts, make_trie
from torch import Tensor

from dasrec.generative.decoding.candidate_scores import score_candidates
from dasrec.generative.decoding.diverse import cap_per_label, diverse_beam_search
from dasrec.generative.decoding.head import Normalize
from dasrec.generative.decoding.search import SearchResult, constrained_beam_search
from dasrec.generative.decoding.trie import SidTrie

Prefix = tuple[int, ...]


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


def prefix_scores(
    model: Any, ids: Tensor, mask: Tensor, codes: Any, normalize: Normalize
) -> list[dict[Prefix, float]]:
    """Per user the log-probability of every prefix: SIDs cut off there are items of their own."""
    found: list[dict[Prefix, float]] = [{} for _ in ids]
    for length in range(1, len(SIZES) + 1):
        cut = SidTrie.from_sids(codes[:, :length], SIZES[:length], TOKENS[:length])
        every = torch.arange(len(codes)).repeat(len(ids), 1)
        scores = score_candidates(model, ids, mask, cut, every, normalize=normalize)
        for user, row in zip(found, scores.tolist(), strict=True):
            user |= {tuple(sid[:length]): s for sid, s in zip(codes.tolist(), row, strict=True)}
    return found


def slow(
    log_p: dict[Prefix, float], num_groups: int, num_beams: int, num_items: int, penalty: float
) -> list[list[Prefix]]:
    """Diverse beam search in plain Python: each group's SIDs, best first."""
    groups: list[list[Prefix]] = [[()] for _ in range(num_groups)]
    for length in range(1, len(SIZES) + 1):
        times: Counter[Prefix] = Counter()
        for group, beams in enumerate(groups):
            open_ = [p for p in log_p if len(p) == length and p[:-1] in beams]
            if length == len(SIZES):
                open_ = [p for p in open_ if not times[p]]
            open_.sort(key=lambda p: (-(log_p[p] - penalty * times[p]), p))
            groups[group] = open_[: max(num_beams, num_items) if group == 0 else num_beams]
            times.update(groups[group])
    return groups


@pytest.mark.parametrize("normalize", NORMALIZERS)
@pytest.mark.parametrize(("groups", "penalty"), [(3, 0.7), (2, 100.0), (4, 0.0)])
def test_is_the_slow_one(groups: int, penalty: float, normalize: Normalize) -> None:
    model, (ids, mask) = make_model("qwen3"), make_prompts(4)
    codes = make_trie()[1]
    trie = SidTrie.from_sids(codes, SIZES, TOKENS)
    found = diverse_beam_search(
        model,
        ids,
        mask,
        trie,
        num_groups=groups,
        num_beams=3,
        num_items=8,
        penalty=penalty,
        normalize=normalize,
    )
    item_of = {tuple(sid): i for i, sid in enumerate(codes.tolist())}
    for b, log_p in enumerate(prefix_scores(model, ids, mask, codes, normalize)):
        lists = slow(log_p, groups, 3, 8, penalty)
        turns = [(rank, g, sid) for g, own in enumerate(lists) for rank, sid in enumerate(own)]
        chosen = [sid for _, _, sid in sorted(turns)[:8]]
        chosen.sort(key=lambda sid: -log_p[sid])
        assert found.items[b].tolist() == [item_of[sid] for sid in chosen]
        expected = torch.tensor([log_p[sid] for sid in chosen])
        torch.testing.assert_close(found.scores[b], expected, atol=1e-4, rtol=0)
    assert (found.num_valid == 8).all()
    assert (found.exact_prefix == 0).all()


def test_one_group_is_the_plain_search_and_more_are_more_varied() -> None:
    codes = colliding_codes()
    trie = SidTrie.from_sids(codes, SIZES, TOKENS)
    model, (ids, mask) = make_model("llama"), make_prompts(6)
    excluded = [[1, 2], [], [30], [], [4], []]

    def search(num_groups: int, mode: Any = "auto") -> SearchResult:
        return diverse_beam_search(
            model,
            ids,
            mask,
            trie,
            num_groups=num_groups,
            num_beams=2,
            num_items=3,
            penalty=3.0,
            excluded=excluded,
            mode=mode,
        )

    plain = constrained_beam_search(
        model, ids, mask, trie, num_beams=3, num_items=3, excluded=excluded
    )
    one, three = search(1), search(3)
    assert torch.equal(one.items, plain.items)
    assert torch.equal(one.scores, plain.scores)
    assert torch.equal(three.items, search(3, "expand").items)
    varied = [
        sum(len({tuple(codes[i, :2]) for i in row}) for row in found.items.tolist())
        for found in (one, three)
    ]
    assert varied[1] > varied[0]
    assert all(len(set(row)) == 3 for row in three.items.tolist())


def test_as_many_items_as_there_are() -> None:
    codes = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]])
    trie = SidTrie.from_sids(codes, SIZES, TOKENS)
    model, (ids, mask) = make_model("gpt2"), make_prompts(2)
    found = diverse_beam_search(
        model,
        ids,
        mask,
        trie,
        num_groups=4,
        num_beams=1,
        num_items=6,
        penalty=1.0,
        excluded=[[], [0, 3]],
    )
    assert found.num_valid.tolist() == [4, 2]
    assert sorted(found.items[0].tolist()) == [-1, -1, 0, 1, 2, 3]
    assert sorted(found.items[1].tolist()) == [-1, -1, -1, -1, 1, 2]


def test_cap_per_label_by_hand() -> None:
    items = torch.tensor([[4, 0, 1, 2, 3, 5], [5, 3, 1, -1, -1, -1]])
    scores = torch.tensor([[6.0, 5, 4, 3, 2, 1], [3, 2, 1, *[-torch.inf] * 3]])
    result = SearchResult(items, scores, torch.tensor([6, 3]), torch.tensor([6, 3]))
    labels = torch.tensor([7, 7, 7, 8, 7, 8])
    one = cap_per_label(result, labels, most=1, num_items=3)
    assert one.items.tolist() == [[4, 3, -1], [5, 1, -1]]
    assert one.scores.tolist() == [[6, 2, -torch.inf], [3, 1, -torch.inf]]
    assert one.num_valid.tolist() == [2, 2]
    two = cap_per_label(result, labels, most=2, num_items=3)
    assert two.items.tolist() == [[4, 0, 3], [5, 3, 1]]
    with pytest.raises(ValueError, match=r"label_I: one label per item needed, got shape \(5,\)"):
        cap_per_label(result, labels[:5], most=1, num_items=1)
    with pytest.raises(ValueError, match="at least 1 needed, got 0 and 3"):
        cap_per_label(result, labels, most=0, num_items=3)


def test_mistakes_are_told() -> None:
    model, (trie, _), (ids, mask) = make_model("gpt2"), make_trie(), make_prompts()
    good: dict[str, Any] = {"num_groups": 2, "num_beams": 2, "num_items": 2, "penalty": 1.0}
    for name, value in (("num_groups", 0), ("num_beams", 0), ("num_items", 0), ("penalty", -1.0)):
        with pytest.raises(ValueError, match=f"{name}: at least"):
            diverse_beam_search(model, ids, mask, trie, **good | {name: value})
