from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from tests.generative.test_candidate_scores import TOKENS, colliding_codes
from tests.generative.test_search import SIZES, make_model, make_prompts
from torch import Tensor

from dasrec.generative.decoding.allowed import Allowed
from dasrec.generative.decoding.exhaustive import score_items
from dasrec.generative.decoding.noise import child_key, gumbel, gumbel_below
from dasrec.generative.decoding.sampling import Sample, sample_items
from dasrec.generative.decoding.trie import SidTrie

NUM_ITEMS, NUM_DRAWS = 8, 12_000


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


@cache
def small() -> tuple[Any, SidTrie, Tensor, Tensor]:
    """Eight items; items 0 and 7 share a SID; one prompt."""
    codes = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 0, 5], [2, 3, 3], [5, 4, 6]])
    codes = np.concatenate([codes, codes[:1]])
    torch.manual_seed(3)
    ids, mask = make_prompts(1, 5)
    return make_model("gpt2", seed=2), SidTrie.from_sids(codes, SIZES, TOKENS), ids, mask


def exact_probs() -> Tensor:
    """(I,) of one draw: the two items that share a SID take half of it each."""
    model, trie, ids, mask = small()
    probs = score_items(model, ids, mask, trie, normalize="trie")[0].double().exp()
    probs[[0, 7]] /= 2
    return probs / probs.sum()


@cache
def many(num_items: int, **options: Any) -> Sample:
    model, trie, ids, mask = small()
    return sample_items(
        model,
        ids.repeat(NUM_DRAWS, 1),
        mask.repeat(NUM_DRAWS, 1),
        trie,
        num_items=num_items,
        seeds=torch.arange(NUM_DRAWS),
        **options,
    )


def assert_drawn_from(counts: Tensor, probs: Tensor) -> None:
    assert counts.sum() == NUM_DRAWS
    kept = probs > 0
    assert stats.chisquare(counts[kept], probs[kept] / probs.sum() * NUM_DRAWS).pvalue > 1e-3
    assert (counts[~kept] == 0).all()


def pair_probs(probs: Tensor) -> Tensor:
    """(I, I) of the first and the second of two draws without replacement."""
    pairs = probs[:, None] * probs[None, :] / (1 - probs[:, None])
    return pairs.fill_diagonal_(0)


def test_noise_is_gumbel_and_independent() -> None:
    key = child_key(torch.arange(30_000)[:, None], torch.arange(3))
    noise = gumbel(key).numpy()
    for column in range(3):
        assert stats.kstest(noise[:, column], "gumbel_r").pvalue > 1e-3
    assert stats.kstest(gumbel(torch.arange(30_000)).numpy(), "gumbel_r").pvalue > 1e-3
    correlation = np.corrcoef(np.concatenate([noise[1:].T, noise[:-1].T]))
    assert np.abs(correlation - np.eye(6)).max() < 0.03
    # The first outputs of splitmix64 from seed 0, as published with the generator.
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    found = child_key(torch.zeros(3, dtype=torch.int64), torch.arange(3))
    assert [value % 2**64 for value in found.tolist()] == published


def test_siblings_below_their_parent_are_again_gumbel() -> None:
    phi = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64).log()
    rows = torch.arange(20_000)
    top = gumbel(rows)
    key = child_key(rows[:, None], torch.arange(4)).flatten()
    below = gumbel_below(phi.repeat(20_000), rows.repeat_interleave(4), top, key).view(-1, 4)
    assert torch.equal(below.max(1).values, top)
    for i in range(4):
        assert stats.kstest((below[:, i] - phi[i]).numpy(), "gumbel_r").pvalue > 1e-3
    dead = torch.full((2,), -torch.inf, dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.int64)
    assert torch.equal(gumbel_below(dead, zero, dead[:1], zero), dead)


def test_first_draws_follow_the_probabilities() -> None:
    for num_items in (1, 3):
        drawn = many(num_items)
        counts = torch.bincount(drawn.items[:, 0], minlength=NUM_ITEMS)
        assert_drawn_from(counts, exact_probs())


def test_pairs_are_drawn_without_replacement() -> None:
    first, second = many(3).items[:, :2].T
    counts = torch.bincount(first * NUM_ITEMS + second, minlength=NUM_ITEMS**2)
    assert_drawn_from(counts, pair_probs(exact_probs()).flatten())


def test_a_predicate_leaves_the_others_in_proportion() -> None:
    _, trie, *_ = small()
    keep = torch.tensor([True, False, True, True, False, True, False, False])
    first, second = many(2, allowed=Allowed.of(trie, keep)).items.T
    counts = torch.bincount(first * NUM_ITEMS + second, minlength=NUM_ITEMS**2)
    # Without item 7 its SID is item 0's alone: the tree gives SIDs their probability, not items.
    model, trie, ids, mask = small()
    codes = trie.leaf_codes()[[0, 2, 3, 5]]
    alone = SidTrie.from_sids(codes, SIZES, TOKENS)
    probs = torch.zeros(NUM_ITEMS, dtype=torch.float64)
    probs[keep] = score_items(model, ids, mask, alone, normalize="trie")[0].double().exp()
    assert_drawn_from(counts, pair_probs(probs).flatten())


def test_weighted_sums_are_unbiased() -> None:
    drawn, probs = many(3), exact_probs()
    value = torch.tensor([3.0, -1.0, 0.5, 7.0, 2.0, -4.0, 1.0, 10.0], dtype=torch.float64)
    weight = drawn.log_probs.exp() / drawn.inclusion()
    estimate = (weight * value[drawn.items]).sum(1)
    error = (estimate.mean() - probs @ value) / (estimate.std() / NUM_DRAWS**0.5)
    assert abs(float(error)) < 4
    assert estimate.std() < value[many(1).items[:, 0]].std()  # three draws tell more than one
    naive = value[drawn.items].mean(1)  # without weights it is biased: the test can see it
    assert abs(float((naive.mean() - probs @ value) / (naive.std() / NUM_DRAWS**0.5))) > 10


def test_scores_and_probabilities_are_those_of_every_item() -> None:
    codes = colliding_codes()
    trie = SidTrie.from_sids(codes, SIZES, TOKENS)
    model, (ids, mask) = make_model("qwen3"), make_prompts()
    allowed = torch.rand(3, len(codes)) < 0.7
    drawn = sample_items(
        model, ids, mask, trie, num_items=10, seeds=torch.arange(3), normalize="full",
        allowed=allowed,
    )  # fmt: skip
    torch.testing.assert_close(
        drawn.scores,
        score_items(model, ids, mask, trie, normalize="full").gather(1, drawn.items),
        atol=1e-4,
        rtol=0,
    )
    for b in range(3):
        own = codes[allowed[b].numpy()]
        rebuilt = SidTrie.from_sids(own, SIZES, TOKENS)
        log_p = score_items(model, ids[b : b + 1], mask[b : b + 1], rebuilt, normalize="trie")[0]
        shared = torch.tensor([(own == row).all(1).sum() for row in own])
        numbers = allowed[b].cumsum(0)[drawn.items[b]] - 1
        expected = (log_p - shared.log())[numbers].double()
        torch.testing.assert_close(drawn.log_probs[b], expected, atol=1e-4, rtol=0)
        assert allowed[b][drawn.items[b]].all()
    assert (drawn.perturbed.diff(dim=1) < 0).all()
    assert (drawn.perturbed[:, -1] > drawn.threshold).all()


@pytest.mark.parametrize("name", ["gpt2", "gemma3"])
def test_a_seed_is_a_sample(name: str) -> None:
    trie = SidTrie.from_sids(colliding_codes(), SIZES, TOKENS)
    model, (ids, mask) = make_model(name), make_prompts(5)
    seeds = torch.tensor([5, 1, 5, 2, 3])
    excluded = [[1, 2, 3], [], [5], [7, 8], []]

    def sample(rows: slice, num_items: int, pad: int = 0, **options: Any) -> Sample:
        padded_ids, padded_mask = (torch.nn.functional.pad(x[rows], (pad, 0)) for x in (ids, mask))
        return sample_items(
            model,
            padded_ids,
            padded_mask,
            trie,
            num_items=num_items,
            seeds=seeds[rows],
            excluded=excluded[rows],
            **options,
        )

    together = sample(slice(None), 8)
    assert torch.equal(together.items, sample(slice(None), 8, mode="expand").items)
    for b in range(5):
        alone = sample(slice(b, b + 1), 3, pad=4)
        assert torch.equal(alone.items[0], together.items[b, :3])
        assert alone.threshold[0] == pytest.approx(float(together.perturbed[b, 3]), abs=1e-4)
    same = ids[:1].repeat(5, 1), mask[:1].repeat(5, 1)
    repeated = sample_items(model, *same, trie, num_items=8, seeds=seeds)
    assert torch.equal(repeated.items[0], repeated.items[2])
    assert len({tuple(row) for row in repeated.items.tolist()}) == 4


def test_all_items_come_where_there_are_no_more() -> None:
    model, trie, ids, mask = small()
    drawn = sample_items(
        model,
        ids.repeat(3, 1),
        mask.repeat(3, 1),
        trie,
        num_items=9,
        seeds=torch.arange(3),
        only=[[2, 3], None, []],
    )
    assert drawn.num_valid.tolist() == [2, 8, 0]
    assert sorted(drawn.items[0].tolist()) == [-1] * 7 + [2, 3]
    assert sorted(drawn.items[1].tolist()) == [-1, *range(8)]
    assert (drawn.threshold == -torch.inf).all()
    assert (drawn.inclusion()[drawn.items >= 0] == 1).all()
    for values in (drawn.log_probs, drawn.perturbed, drawn.scores):
        assert torch.equal(values > -torch.inf, drawn.items >= 0)
    assert not any(values.isnan().any() for values in drawn)


def test_mistakes_are_told() -> None:
    model, trie, ids, mask = small()
    with pytest.raises(ValueError, match="num_items: at least 1 needed, got 0"):
        sample_items(model, ids, mask, trie, num_items=0, seeds=torch.zeros(1).long())
    with pytest.raises(ValueError, match=r"seeds: one int64 per prompt needed, \(1,\)"):
        sample_items(model, ids, mask, trie, num_items=1, seeds=torch.zeros(2).long())
