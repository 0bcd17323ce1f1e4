"""Scores, negatives, rewards and losses of the alignment, against definitions."""

import dataclasses
import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.generative.world import World, make_corpus, scratch
from torch import Tensor

from dasrec.core import Ragged, build_config
from dasrec.generative import (
    BaseModelConfig,
    SequenceBuilder,
    SidTrie,
    add_lora,
    build_trie,
    score_items,
)
from dasrec.generative.decoding.filters import ItemFilter
from dasrec.generative.model.base_model import build_base_model
from dasrec.generative.preference import rewards
from dasrec.generative.preference.config import DpoConfig, GrpoConfig, RewardWeights
from dasrec.generative.preference.dpo import check_reference, softmax_pairs
from dasrec.generative.preference.grpo import clipped_loss
from dasrec.generative.preference.negatives import (
    by_shared_prefix,
    popular_items,
    rejected_items,
    user_items,
)
from dasrec.generative.preference.prompts import training_positions, training_prompts
from dasrec.generative.preference.rollouts import GrpoCollator, PromptBatch, propose
from dasrec.generative.preference.scoring import CandidateScorer, holding, trained_weights

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
]


def built(world: World, architecture: str = "gpt2", **options: Any) -> tuple[Any, Any]:
    config = build_config(BaseModelConfig, scratch(architecture, **options), "base")
    model, _, vocabulary = build_base_model(config, world.corpus, world.sids, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # no uniform predictions
    return model, vocabulary


def prompts_of(world: World, vocabulary: Any, per_user: int = 1) -> Any:
    builder = SequenceBuilder(world.sids, vocabulary)
    return training_prompts(world.corpus, builder, per_user, None, seed=0)


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3", "gemma2", "granite"])
def test_scores_equal_those_of_reading_every_item(world: World, architecture: str) -> None:
    model, vocabulary = built(world, architecture)
    trie = build_trie(world.corpus, world.sids, vocabulary)
    scorer = CandidateScorer(trie, world.sids)
    ids, mask = prompts_of(world, vocabulary).padded(np.array([0, 7, 3]))
    items = torch.tensor([[5, 47, 0, 5], [1, 2, 3, 4], [9, 8, -1, 30]])
    model.train()  # dropout must not matter
    scores = scorer.log_probs(scorer.logits(model, ids, mask, items), items).sum(-1)
    assert model.training
    expected = score_items(model.eval(), ids, mask, trie).gather(1, items.clamp(min=0))
    torch.testing.assert_close(scores, expected, atol=2e-5, rtol=1e-5)


def test_gradients_flow_through_the_shared_prompt(world: World) -> None:
    model, vocabulary = built(world, "qwen3")
    scorer = CandidateScorer(build_trie(world.corpus, world.sids, vocabulary), world.sids)
    prompts = prompts_of(world, vocabulary)
    ids, mask = prompts.padded(np.array([4]))
    items = torch.tensor([[5, 20]])
    weight = model.get_decoder().layers[0].self_attn.v_proj.weight
    scorer.log_probs(scorer.logits(model, ids, mask, items), items).sum().backward()
    shared = weight.grad.clone()
    weight.grad = None
    model.eval()
    for item in (5, 20):  # the plain way: prompt and SID as one sequence
        tokens = torch.from_numpy(vocabulary.item_tokens(world.sids)[item])[None]
        logits = model(input_ids=torch.cat([ids, tokens], 1)).logits[0, -4:-1]
        for level, row in enumerate(logits):
            choice = row[list(vocabulary.item_levels[level])].log_softmax(-1)
            choice[int(scorer.code_IL[item, level])].backward(retain_graph=True)
    torch.testing.assert_close(shared, weight.grad, atol=1e-5, rtol=1e-4)


def test_legal_mass_is_what_existing_prefixes_hold() -> None:
    torch.manual_seed(0)
    number = np.random.default_rng(0).choice(64, 20, replace=False)  # 20 of 64 possible SIDs
    codes = np.stack([number // 16, number // 4 % 4, number % 4], axis=1).astype(np.uint16)
    trie = SidTrie.from_sids(codes, (4, 4, 4), [np.arange(4) + 4 * level for level in range(3)])
    sids: Any = SimpleNamespace(items=SimpleNamespace(codes=codes))
    scorer = CandidateScorer(trie, sids)
    items = torch.tensor([[0, 13], [7, 2]])
    logits = [torch.randn(2, 2, 4) for _ in range(3)]
    mass = scorer.legal_mass(logits, items)
    for row, column, level in itertools.product(range(2), range(2), range(3)):
        legal = {tuple(sid[: level + 1]) for sid in codes.tolist()}
        probs = logits[level][row, column].softmax(-1)
        prefix = codes[items[row, column], :level].tolist()
        expected = sum(float(probs[c]) for c in range(4) if (*prefix, c) in legal)
        assert float(mass[row, column, level]) == pytest.approx(expected, abs=1e-6)
    assert float(mass.min()) < 0.9


def test_holding_gives_the_reference_and_takes_it_back(world: World) -> None:
    model, vocabulary = built(world, "qwen3", tie_word_embeddings=False)
    model = add_lora(model, vocabulary, {"r": 2, "target_modules": "all-linear"}).eval()
    ids = torch.tensor([[vocabulary.control["<|anonymous|>"], vocabulary.item_levels[0][1]]])
    start, before = trained_weights(model), model(ids).logits
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    after = model(ids).logits
    assert not torch.allclose(before, after, atol=1e-2)
    with holding(model, start):
        assert torch.equal(model(ids).logits, before)
    assert torch.equal(model(ids).logits, after)


def test_prompts_are_training_positions_only(world: World, tmp_path: Path) -> None:
    _, vocabulary = built(world)
    corpus = world.corpus
    found = prompts_of(world, vocabulary, per_user=2)
    expected = []
    for user in range(corpus.num_users):
        rows = range(int(corpus.user_start[user]), int(corpus.user_start[user + 1]))
        train = [row for row in rows if corpus.split[row] == 0]
        expected += train[1:][-2:]
    assert found.rows.tolist() == expected
    assert found.targets.tolist() == corpus.item_idx[expected].tolist()
    builder = SequenceBuilder(world.sids, vocabulary)
    for index in (0, 5, 40):
        row = expected[index]
        items = corpus.item_idx[corpus.user_start[corpus.user_idx[row]] : row]
        tokens = builder.item_tokens[items].reshape(-1)
        rendered = found.tokens.tokens[found.tokens.starts[index] : found.tokens.starts[index + 1]]
        assert rendered[-len(tokens) :].tolist() == tokens.tolist()

    other = make_corpus(tmp_path / "corpus", last_items=5)  # other validation and test items
    again = training_prompts(other, builder, 2, None, seed=0)
    assert again.tokens.tokens.tolist() == found.tokens.tokens.tolist()
    assert again.targets.tolist() == found.targets.tolist()
    for corpus_ in (corpus, other):
        own = user_items(corpus_, found)
        assert own.values.tolist() == user_items(corpus, found).values.tolist()
        seen = GrpoCollator(found, corpus_).seen
        assert seen is not None
        assert seen.values.tolist() == corpus.histories(found.rows, 10**6).values.tolist()
    assert len(training_positions(corpus, 10**6)) == int((corpus.split == 0).sum()) - 60


@pytest.mark.parametrize("hard", ["beam", "sibling", "popularity"])
def test_rejected_items_are_none_of_the_users_own(world: World, hard: Any) -> None:
    model, vocabulary = built(world)
    trie = build_trie(world.corpus, world.sids, vocabulary)
    codes = np.asarray(world.sids.items.codes)
    prompts = prompts_of(world, vocabulary)
    config = DpoConfig(negatives=3, hard=hard, candidates=48)
    model.eval()
    found = rejected_items(config, model, trie, world.corpus, codes, prompts, seed=0, name="x")
    assert found.shape == (len(prompts.rows), 3)
    sequences = world.corpus.train_sequences
    for index, row in enumerate(prompts.rows):
        user = world.corpus.user_idx[row]
        own = sequences.values[sequences.starts[user] : sequences.starts[user + 1]]
        assert len(set(found[index].tolist()) - set(own.tolist())) == 3
    if hard == "popularity":
        assert (world.corpus.train_item_count[found] > 0).all()
        return
    for index in range(4):
        ids, mask = prompts.padded(np.array([index]))
        scores = score_items(model, ids, mask, trie)[0]
        user = world.corpus.user_idx[prompts.rows[index]]
        own = sequences.values[sequences.starts[user] : sequences.starts[user + 1]]
        rest = [i for i in range(48) if i not in own]

        def shared(item: int, target: int = int(prompts.targets[index])) -> int:
            same = codes[item] == codes[target]
            return len(list(itertools.takewhile(bool, same)))

        rest.sort(key=lambda i: (-shared(i) if hard == "sibling" else 0, -float(scores[i])))
        assert found[index].tolist() == rest[:3]


def test_sibling_order_keeps_missing_items_last() -> None:
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    found = by_shared_prefix(np.array([[2, 1, 3, -1]]), np.array([0]), codes)
    assert found.tolist() == [[1, 2, 3, -1]]


def test_popular_items_come_as_often_as_their_weight(world: World) -> None:
    rows = 4000
    own = Ragged(np.zeros(rows, np.int32), np.arange(rows + 1))  # item 0 is everybody's
    drawn = popular_items(world.corpus, own, 1, seed=0)[:, 0]
    weights = world.corpus.train_item_count.astype(float)
    weights[0] = 0
    share = np.bincount(drawn, minlength=48) / rows
    np.testing.assert_allclose(share, weights / weights.sum(), atol=4 * math.sqrt(0.05 / rows))


ITEMS = torch.tensor([[3, 1, 2, 0], [2, 3, 1, 4], [4, 2, -1, -1]])
TARGET = torch.tensor([1, 0, 2])
CODES = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]])


def test_rewards_by_hand() -> None:
    assert rewards.hit(ITEMS, TARGET).tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    z = 1 + 1 / math.log2(3) + 1 / 2 + 1 / math.log2(5)
    expected = [[-1 / z, 0, -0.5 / z, -1 / math.log2(5) / z], [0] * 4]
    penalty = rewards.rank_penalty(ITEMS, TARGET)
    torch.testing.assert_close(penalty[:2], torch.tensor(expected))
    # item 1 = (0, 0, 1): 3 shares nothing, 2 one code, 0 two, 4 has the same SID
    prefix = rewards.prefix_match(torch.tensor([[3, 1, 2, 0, 4]]), torch.tensor([1]), CODES)
    torch.testing.assert_close(prefix, torch.tensor([[0.0, 1.0, 0.01, 0.1, 1.0]]))
    weights = RewardWeights(hit=2.0, rank=1.0, prefix=0.5, ranker=3.0)
    ranker = torch.full((3, 4), 0.25)
    total = rewards.total_reward(weights, ITEMS, TARGET, CODES, ranker)
    assert float(total[0, 1]) == pytest.approx(2 + 0.5 + 0.75)
    assert float(total[0, 0]) == pytest.approx(-1 / z + 0.75)
    assert total[2, 2:].tolist() == [0, 0]


def test_advantages_by_hand() -> None:
    reward = torch.tensor([[1.0, 0.0, 0.0, 3.0], [2.0, 2.0, 2.0, 2.0], [1.0, 0.0, 9.0, 9.0]])
    real = torch.tensor([[True] * 4, [True] * 4, [True, True, False, False]])
    sd = math.sqrt((0 + 1 + 1 + 4) / 3) + 1e-4
    half = math.sqrt(0.5) + 1e-4
    expected = [[0, -1 / sd, -1 / sd, 2 / sd], [0] * 4, [0.5 / half, -0.5 / half, 0, 0]]
    torch.testing.assert_close(rewards.group_advantages(reward, real), torch.tensor(expected))


def test_the_clip_acts_where_the_paper_says() -> None:
    old = torch.zeros(1, 4, 1)
    new = torch.tensor([1.5, 1.5, 0.5, 0.5]).log().view(1, 4, 1)
    advantage = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    loss, clipped = clipped_loss(new, old, advantage, 0.2, 0.28)
    torch.testing.assert_close(loss.flatten(), torch.tensor([-1.28, 1.5, -0.5, 0.8]))
    assert clipped.flatten().tolist() == [True, False, False, True]


@pytest.mark.parametrize("rollout", ["beam", "sample"])
@pytest.mark.parametrize("add_target", [False, True])
def test_proposals_are_different_real_unseen_items(
    world: World, rollout: Any, add_target: bool
) -> None:
    model, vocabulary = built(world)
    trie = build_trie(world.corpus, world.sids, vocabulary)
    prompts = prompts_of(world, vocabulary)
    collated: dict[str, Any] = GrpoCollator(prompts, world.corpus)([*np.arange(20)])
    batch = PromptBatch(**collated)
    config = GrpoConfig(group_size=8, rollout=rollout, add_target=add_target)
    model.eval()
    items = propose(config, model, trie, batch, seed=0, step=3)
    assert items.shape == (20, 8)
    assert torch.equal(items, propose(config, model, trie, batch, seed=0, step=3))
    assert torch.equal(items, propose(config, model, trie, batch, 0, 4)) is (rollout == "beam")
    allowed = ItemFilter(trie, 20, excluded=batch.excluded)
    assert bool(allowed.item_alive(trie.place_of_item[items].long()).all())
    assert all(len(set(row)) == 8 for row in items.tolist())
    assert bool(rewards.hit(items, batch.targets).any(1).all()) is add_target
    scores = score_items(model, batch.input_ids, batch.attention_mask, trie)
    own = scores.gather(1, items)[:, :-1]
    assert bool((own.diff(dim=1) <= 1e-5).all())  # the most probable first


def test_seen_items_are_proposed_where_training_repeats_them(world: World) -> None:
    model, vocabulary = built(world)
    trie = build_trie(world.corpus, world.sids, vocabulary)
    prompts = prompts_of(world, vocabulary)
    repeating = dataclasses.replace(world.corpus)
    repeating.__dict__["train_repeats"] = True
    collated: dict[str, Any] = GrpoCollator(prompts, repeating)([*np.arange(5)])
    assert collated["excluded"] is None
    model.eval()
    items = propose(GrpoConfig(group_size=48), model, trie, PromptBatch(**collated), 0, 0)
    assert torch.equal(items.sort(dim=1).values, torch.arange(48).expand(5, 48))


def test_draws_depend_on_seed_step_and_prompt_alone(world: World) -> None:
    model, vocabulary = built(world)
    trie = build_trie(world.corpus, world.sids, vocabulary)
    collator = GrpoCollator(prompts_of(world, vocabulary), world.corpus)
    config = GrpoConfig(group_size=8, rollout="sample")
    model.eval()

    def items(rows: slice, seed: int = 0, step: int = 0) -> Tensor:
        batch: Any = collator([*np.arange(6)[rows]])
        return propose(config, model, trie, PromptBatch(**batch), seed, step)

    together = items(slice(None))
    for row in range(6):
        assert torch.equal(items(slice(row, row + 1))[0], together[row])
    assert not torch.equal(items(slice(None), seed=1), together)
    assert not torch.equal(items(slice(None), step=1), together)


def loss_of_pairs(log_prob: Tensor, reference: Tensor, beta: float) -> float:
    pairs = softmax_pairs(log_prob, reference, beta)
    chosen, rejected = pairs.log_probs.sum(1).chunk(2)
    margin = (chosen - pairs.ref_chosen_logps) - (rejected - pairs.ref_rejected_logps)
    return float(-F.logsigmoid(beta * margin).mean())


def test_s_dpo_is_the_papers_formula_and_with_one_negative_dpo() -> None:
    torch.manual_seed(0)
    log_prob, reference = -torch.rand(6, 4, 3) * 4, -torch.rand(6, 4) * 8
    beta = 0.3
    ratio = beta * (log_prob.sum(-1) - reference)
    total = 0.0
    for row in ratio.tolist():  # eq. 9 of 2406.09215, written out
        inner = sum(math.exp(row[n] - row[0]) for n in (1, 2, 3))
        total -= math.log(1 / (1 + math.exp(math.log(inner))))
    assert loss_of_pairs(log_prob, reference, beta) == pytest.approx(total / 6, rel=1e-5)
    one = loss_of_pairs(log_prob[:, :2], reference[:, :2], beta)
    assert one == pytest.approx(float(-F.logsigmoid(ratio[:, 0] - ratio[:, 1]).mean()), rel=1e-5)


def test_a_reference_that_is_not_the_start_is_refused() -> None:
    check_reference(torch.zeros(5, 2), 0.1, 1e-4)
    check_reference(torch.zeros(5, 4), 0.1, 1e-4)
    wrong = torch.tensor([[0.0, 0.5]] * 5)
    with pytest.raises(RuntimeError, match=r"first loss is 0\.7185 instead of 0\.6931"):
        check_reference(wrong, 0.1, 1e-4)


@pytest.mark.parametrize(
    ("owner", "values", "message"),
    [
        (DpoConfig, {"trainer": {"betta": 0.1}}, "betta: trl.DPOConfig has no such option"),
        (DpoConfig, {"trainer": {"use_weighting": True}}, "use_weighting: is set by dasrec"),
        (DpoConfig, {"negatives": 30}, "candidates: at least 'negatives' = 30 needed, got 20"),
        (GrpoConfig, {"trainer": {"beta": 0.1}}, "beta: transformers.TrainingArguments has no"),
        (GrpoConfig, {"rewards": {"hit": 0.0, "rank": 0.0}}, "nothing would be learned"),
        (
            GrpoConfig,
            {"updates_per_rollout": 2, "trainer": {"gradient_accumulation_steps": 4}},
            "updates_per_rollout: more than 1 needs gradient_accumulation_steps = 1",
        ),
        (
            GrpoConfig,
            {"updates_per_rollout": 2, "trainer": {"save_steps": 5}},
            "save_steps: a multiple of updates_per_rollout = 2 needed",
        ),
    ],
)
def test_wrong_options_are_found_at_once(owner: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_config(owner, values, "align")
