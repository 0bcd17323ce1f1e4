from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.generative.test_search import (
    NORMALIZERS,
    SIZES,
    VOCAB,
    brute_force,
    make_model,
    make_prompts,
    make_trie,
)
from torch import Tensor

from dasrec.generative.decoding.candidate_scores import score_candidates
from dasrec.generative.decoding.exhaustive import score_items
from dasrec.generative.decoding.head import LevelHead, Normalize
from dasrec.generative.decoding.paths import item_paths
from dasrec.generative.decoding.trie import SidTrie

TOKENS = np.split(
    np.random.default_rng(5).permutation(np.arange(1, VOCAB))[: sum(SIZES)], np.cumsum(SIZES)[:-1]
)
END = VOCAB - 1 if VOCAB - 1 not in np.concatenate(TOKENS) else 0


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


def colliding_codes(num_items: int = 90) -> npt.NDArray[np.int64]:
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(0, size, num_items) for size in SIZES], axis=1)


def short_codes(*, prefix_free: bool) -> npt.NDArray[np.int64]:
    """SIDs of one to three codes, some shared; padded with -1."""
    codes = colliding_codes(60)
    codes[::3, 2] = -1
    codes[::9, 1:] = -1
    if prefix_free:
        short = {tuple(row[row >= 0]) for row in codes if row[-1] < 0}
        begins = [any(tuple(r[:n]) in short for n in range(1, (r >= 0).sum())) for r in codes]
        codes = codes[~np.array(begins)]
    return codes


@torch.no_grad()
def token_sums(
    model: Any, ids: Tensor, mask: Tensor, codes: Any, normalize: str, end: int | None
) -> Tensor:
    """(B, I) sums over each item's own tokens, its end among them, by one plain pass each."""
    sids = [[int(c) for c in row if c >= 0] + ([-1] if row[-1] < 0 else []) for row in codes]
    spelled = [
        [int(TOKENS[level][c]) if c >= 0 else end for level, c in enumerate(sid)] for sid in sids
    ]
    scores = torch.zeros(len(ids), len(codes))
    for b, i in np.ndindex(*scores.shape):
        prompt = ids[b][mask[b].bool()]
        for level, code in enumerate(sids[i]):
            if code < 0 and end is None:
                continue  # goes without saying
            before = [t for t in spelled[i][:level] if t is not None]
            value = model(input_ids=torch.cat([prompt, torch.tensor(before)])[None].long())
            logits = value.logits[0, -1].float()
            table = [*TOKENS[level].tolist(), *([end] if end is not None and level else [])]
            if normalize == "trie":
                same = [j for j, sid in enumerate(sids) if sid[:level] == sids[i][:level]]
                table = list({spelled[j][level] for j in same})
            z = (logits if normalize == "full" else logits[table]).logsumexp(0)
            scores[b, i] += logits[spelled[i][level]] - z
    return scores


@pytest.mark.parametrize("normalize", NORMALIZERS)
@pytest.mark.parametrize("name", ["gpt2", "qwen3", "gemma3"])
def test_candidates_get_their_brute_force_scores(name: str, normalize: Normalize) -> None:
    codes = colliding_codes()
    trie = SidTrie.from_sids(codes, SIZES, TOKENS)
    model, (ids, mask) = make_model(name), make_prompts()
    expected = brute_force(model, ids, mask, trie, codes, normalize)
    every = score_items(model, ids, mask, trie, normalize=normalize, rows_per_pass=40)
    torch.testing.assert_close(every, expected, atol=1e-4, rtol=0)
    items = torch.randint(-1, len(codes), (3, 12))
    items[0] = -1
    items[1, :4] = 7
    for mode in ("tree", "expand"):
        scores = score_candidates(model, ids, mask, trie, items, normalize=normalize, mode=mode)
        torch.testing.assert_close(
            scores,
            expected.gather(1, items.clamp(min=0)).masked_fill(items < 0, -torch.inf),
            atol=1e-4,
            rtol=0,
        )


@pytest.mark.parametrize("normalize", NORMALIZERS)
@pytest.mark.parametrize("end", [None, END])
def test_short_sids_are_scored_by_their_own_tokens(end: int | None, normalize: Normalize) -> None:
    codes = short_codes(prefix_free=end is None)
    trie = SidTrie.from_sids(codes, SIZES, TOKENS, end_token_id=end)
    model, (ids, mask) = make_model("llama"), make_prompts(2)
    expected = token_sums(model, ids, mask, codes, normalize, end)
    every = score_items(model, ids, mask, trie, normalize=normalize, rows_per_pass=40)
    torch.testing.assert_close(every, expected, atol=1e-4, rtol=0)
    items = torch.arange(len(codes)).flip(0).repeat(2, 1)
    scores = score_candidates(model, ids, mask, trie, items, normalize=normalize)
    torch.testing.assert_close(scores, expected.gather(1, items), atol=1e-4, rtol=0)


def test_lists_of_different_length_and_one_pass_per_prefix(monkeypatch: Any) -> None:
    trie, _ = make_trie()
    model, (ids, mask) = make_model("qwen3"), make_prompts()
    lists = [[3, 4, 5, 6], [], [69]]
    every = score_items(model, ids, mask, trie)
    run: list[int] = []
    states = LevelHead.states

    def counting(self: LevelHead, *args: Any, **inputs: Any) -> Tensor:
        run.append(inputs["input_ids"].shape[1])
        return states(self, *args, **inputs)

    monkeypatch.setattr(LevelHead, "states", counting)
    scores = score_candidates(model, ids, mask, trie, lists)
    nodes = item_paths(trie, torch.tensor(lists[0])).node_NL
    assert run == [ids.shape[1], *(len(torch.unique(nodes[:, i])) for i in range(2))]
    for row, own in enumerate(lists):
        torch.testing.assert_close(scores[row, : len(own)], every[row, own], atol=1e-4, rtol=0)
        assert (scores[row, len(own) :] == -torch.inf).all()


def test_mistakes_are_told() -> None:
    trie, _ = make_trie()
    model, (ids, mask) = make_model("gpt2"), make_prompts(2)
    with pytest.raises(ValueError, match=r"items: one non-empty row .* \(2, G\), got \(1, 2\)"):
        score_candidates(model, ids, mask, trie, torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"items: item index outside 0..69 .* got 0..70"):
        score_candidates(model, ids, mask, trie, [[0], [70]])
