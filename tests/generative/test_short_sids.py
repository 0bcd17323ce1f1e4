"""SIDs of different length, against plain passes over each item's own tokens."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from tests.generative.test_search import NORMALIZERS, SIZES, VOCAB, make_model, make_prompts
from torch import Tensor

from dasrec.generative.decoding.exhaustive import score_items
from dasrec.generative.decoding.head import Normalize
from dasrec.generative.decoding.search import constrained_beam_search
from dasrec.generative.decoding.trie import SidTrie

END = VOCAB - 1
TABLES = [np.arange(1, 7), np.arange(20, 25), np.arange(30, 37)]

Sid = tuple[int, ...]


def make_sids(*, prefix_free: bool) -> list[Sid]:
    """About 40 SIDs of one to three codes; some items share one."""
    rng = np.random.default_rng(0)
    sids: list[Sid] = [tuple(int(rng.integers(size)) for size in SIZES) for _ in range(45)]
    short = [(0,), (1, 0), (1, 1), (4, 2), (0,), (4, 2)]
    if prefix_free:
        sids = [sid for sid in sids if not any(sid[: len(s)] == s for s in short)]
    return [*sids, *short, sids[0]]


def make_trie(sids: list[Sid], *, has_end: bool) -> SidTrie:
    codes = [[*sid, *[-1] * (3 - len(sid))] for sid in sids]
    return SidTrie.from_sids(codes, SIZES, TABLES, end_token_id=END if has_end else None)


@torch.no_grad()
def oracle(
    model: Any, ids: Tensor, mask: Tensor, sids: list[Sid], normalize: str, *, has_end: bool
) -> Tensor:
    """(B, I) log-probability of each item's own tokens, one plain pass each."""

    def tokens(sid: Sid) -> list[int]:
        own = [int(table[code]) for table, code in zip(TABLES, sid, strict=False)]
        return [*own, END] if has_end and len(sid) < 3 else own

    written = [tokens(sid) for sid in sids]
    scores = torch.zeros(len(ids), len(sids))
    for b, (row, keep) in enumerate(zip(ids, mask.bool(), strict=True)):
        for i, own in enumerate(written):
            prompt = row[keep].tolist()
            logits = model(torch.tensor([prompt + own])).logits[0, len(prompt) - 1 : -1].double()
            for level, token in enumerate(own):
                over = [*TABLES[level].tolist(), *([END] if has_end and level else [])]
                if normalize == "trie":
                    over = sorted({w[level] for w in written if w[:level] == own[:level]})
                if normalize == "full":
                    over = list(range(VOCAB))
                scores[b, i] += logits[level, token] - logits[level, over].logsumexp(0)
    return scores


@pytest.mark.parametrize("normalize", NORMALIZERS)
@pytest.mark.parametrize("has_end", [True, False])
@pytest.mark.parametrize(("name", "mode"), [("qwen3", "tree"), ("gpt2", "expand")])
def test_short_sids(
    name: str, mode: Literal["tree", "expand"], has_end: bool, normalize: Normalize
) -> None:
    model, (ids, mask) = make_model(name), make_prompts(2)
    sids = make_sids(prefix_free=not has_end)
    trie = make_trie(sids, has_end=has_end)
    expected = oracle(model, ids, mask, sids, normalize, has_end=has_end)
    for num_beams in (99, 4):
        found = constrained_beam_search(
            model,
            ids,
            mask,
            trie,
            num_beams=num_beams,
            num_items=len(sids) if num_beams == 99 else 4,
            normalize=normalize,
            mode=mode,
        )
        own = expected.gather(1, found.items)
        torch.testing.assert_close(found.scores, own, atol=1e-4, rtol=0)
        assert all(len(set(row)) == len(row) for row in found.items.tolist())
        if num_beams == 99:
            assert (found.exact_prefix == len(sids)).all()
    every = score_items(model, ids, mask, trie, normalize=normalize)
    torch.testing.assert_close(every, expected, atol=1e-4, rtol=0)


def test_an_end_is_chosen_only_where_a_sid_ends() -> None:
    """A model sure of the end after the first code still gets existing items only."""
    model, (ids, mask) = make_model("llama"), make_prompts(2)
    model.lm_head.weight.data[END] = 0
    model.lm_head.weight.data[[*TABLES[1], *TABLES[2]]] *= 1e-3
    trie = make_trie([(0,), (0, 1), (0, 1, 2), (3, 3, 3)], has_end=True)
    found = constrained_beam_search(model, ids, mask, trie, num_beams=4, num_items=5)
    assert [sorted(row) for row in found.items.tolist()] == [[-1, 0, 1, 2, 3]] * 2
    assert (found.num_valid == 4).all()


def test_nothing_is_run_for_sids_that_have_ended() -> None:
    model, (ids, mask) = make_model("qwen3"), make_prompts(2)
    trie = make_trie([(0,), (1,), (2,), (3, 1, 2)], has_end=False)
    seen: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].numel())
    )
    found = constrained_beam_search(model, ids, mask, trie, num_beams=4, num_items=4)
    assert (found.num_valid == 4).all()
    # The prompts, four first codes, and the only one that goes on.
    assert seen[-3:] == [ids.numel(), 2 * 4, 2 * 1]
