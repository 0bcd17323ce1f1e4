"""The alignment stage from start to artifact."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.generative.world import (
    World,
    make_corpus,
    make_sids,
    pretrain_config,
    scratch,
    sft_config,
)
from torch import Tensor

from dasrec.core import SemanticIds, build_config, load_manifest
from dasrec.generative import build_trie, load_generator, pretrain, sft
from dasrec.generative.preference.align import align
from dasrec.generative.preference.config import DpoConfig, GrpoConfig
from dasrec.generative.preference.negatives import rejected_items
from dasrec.generative.preference.prompts import training_prompts
from dasrec.generative.preference.rewards import RewardScores
from dasrec.generative.preference.scoring import CandidateScorer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning"),
]

STEPS = {"logging_strategy": "steps", "logging_steps": 1, "per_device_train_batch_size": 20}


def dpo_config(trainer: dict[str, Any] | None = None, **values: Any) -> DpoConfig:
    options = STEPS | {"learning_rate": 5e-3, "num_train_epochs": 2} | (trainer or {})
    return build_config(DpoConfig, {"validation_queries": 0, "trainer": options} | values, "align")


def grpo_config(trainer: dict[str, Any] | None = None, **values: Any) -> GrpoConfig:
    options = STEPS | {"learning_rate": 5e-3, "num_train_epochs": 2} | (trainer or {})
    defaults = {"method": "grpo", "validation_queries": 0, "group_size": 8, "trainer": options}
    return build_config(GrpoConfig, defaults | values, "align")


def make_start(
    world: World, root: Path, architecture: str = "gpt2", epochs: int = 4, **options: Any
) -> Path:
    trainer = {"learning_rate": 5e-3, "num_train_epochs": epochs, "per_device_train_batch_size": 8}
    config = pretrain_config(
        base=scratch(architecture, **options), trainer=trainer, validation_queries=0
    )
    pretrain(config, world.corpus, world.sids, root / "base")
    sft(sft_config(validation_queries=0), root / "base", world.corpus, world.sids, root / "lm")
    return root / "lm"


@pytest.fixture(scope="module")
def start(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    still: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return make_start(world, tmp_path_factory.mktemp("start"), epochs=25, n_embd=32, **still)


@pytest.fixture(scope="module")
def untied(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("untied")
    return make_start(world, root, "qwen3", tie_word_embeddings=False)


def adapter(path: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_file(path / "adapter" / "adapter_model.safetensors")
    return found


def item_log_probs(path: Path, world: World, items_PG: Any) -> Tensor:
    """(P, G) of some items after the last training prompt of every user."""
    generator = load_generator(path, world.sids)
    builder = generator.sequence_builder(world.corpus, world.sids)
    prompts = training_prompts(world.corpus, builder, 1, None, seed=0)
    trie = build_trie(world.corpus, world.sids, generator.vocabulary)
    scorer = CandidateScorer(trie, world.sids)
    ids, mask = prompts.padded(np.arange(len(prompts.rows)))
    items = items_PG(prompts) if callable(items_PG) else items_PG
    with torch.no_grad():
        return scorer.log_probs(scorer.logits(generator.model, ids, mask, items), items).sum(-1)


@pytest.mark.parametrize(("name", "negatives"), [("start", 3), ("untied", 1)])
def test_the_first_dpo_loss_is_that_of_equal_models(
    world: World, name: str, negatives: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(name)
    shutil.copytree(path.parent, tmp_path / "run")
    config = dpo_config({"num_train_epochs": 4}, negatives=negatives, candidates=12)
    out = tmp_path / "run" / "dpo"
    manifest = align(config, tmp_path / "run" / "lm", world.corpus, world.sids, out)
    losses = [entry["loss"] for entry in manifest.metrics["log"] if "loss" in entry]
    assert losses[0] == pytest.approx(math.log(1 + negatives), abs=1e-4)
    assert losses[-1] < losses[0]
    trained, before = adapter(out), adapter(path)
    assert trained.keys() == before.keys()
    moved = {key for key in before if not torch.equal(before[key], trained[key])}
    assert any("lora_" in key for key in moved)
    tokens = {key for key in before if "trainable_tokens" in key}
    assert len(tokens) == (1 if name == "start" else 2)
    assert tokens <= moved  # trained on, and part of the reference
    assert json.loads((out / "base.json").read_text()) == {"path": "../base"}


def test_dpo_raises_the_target_against_what_it_was_shown(
    world: World, start: Path, tmp_path: Path
) -> None:
    shutil.copytree(start.parent, tmp_path / "run")
    out = tmp_path / "run" / "dpo"
    config = dpo_config({"num_train_epochs": 4, "beta": 0.3}, negatives=2, hard="sibling")
    manifest = align(config, tmp_path / "run" / "lm", world.corpus, world.sids, out)
    generator = load_generator(start, world.sids)
    prompts = training_prompts_of(world, start)
    trie = build_trie(world.corpus, world.sids, generator.vocabulary)
    codes = np.asarray(world.sids.items.codes)
    rejected = rejected_items(
        config, generator.model, trie, world.corpus, codes, prompts, seed=0, name="again"
    )
    shown = torch.from_numpy(np.concatenate([prompts.targets[:, None], rejected], axis=1))
    before, after = (item_log_probs(path, world, shown) for path in (start, out))
    gain = (after[:, :1] - after[:, 1:]) - (before[:, :1] - before[:, 1:])
    assert float(gain.mean()) > 0.5
    log = [entry for entry in manifest.metrics["log"] if "rewards/accuracies" in entry]
    assert log[-1]["rewards/accuracies"] > 0.9
    assert "mean_token_accuracy" not in log[-1]


def training_prompts_of(world: World, path: Path) -> Any:
    generator = load_generator(path, world.sids)
    builder = generator.sequence_builder(world.corpus, world.sids)
    return training_prompts(world.corpus, builder, 1, None, seed=0)


def test_trls_other_losses_take_our_log_probabilities(
    world: World, start: Path, tmp_path: Path
) -> None:
    shutil.copytree(start.parent, tmp_path / "run")
    for name, options, first in (
        ("ipo", {"loss_type": ["ipo"], "beta": 0.5}, 1.0),  # (0 - 1 / (2 beta))^2
        ("mix", {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.1]}, None),
    ):
        config = dpo_config({"num_train_epochs": 1, **options, "learning_rate": 0.0})
        out = tmp_path / "run" / name
        manifest = align(config, tmp_path / "run" / "lm", world.corpus, world.sids, out)
        losses = [entry["loss"] for entry in manifest.metrics["log"] if "loss" in entry]
        if first is None:  # plus a tenth of the mean negative log-likelihood of a target's code
            shown = torch.from_numpy(training_prompts_of(world, start).targets[:, None])
            nll = -float(item_log_probs(start, world, shown).mean()) / 3
            first = math.log(2) + 0.1 * nll
        assert np.mean(losses) == pytest.approx(first, abs=1e-3)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"rollout": "sample", "updates_per_rollout": 2, "add_target": True},
        {"rewards": {"hit": 1.0, "rank": 0.0, "prefix": 1.0}, "beta": 0.0},
    ],
)
def test_grpo_raises_the_reward(
    world: World, start: Path, tmp_path: Path, values: dict[str, Any]
) -> None:
    shutil.copytree(start.parent, tmp_path / "run")
    out = tmp_path / "run" / "grpo"
    config = grpo_config({"num_train_epochs": 6, "learning_rate": 1e-2}, **values)
    manifest = align(config, tmp_path / "run" / "lm", world.corpus, world.sids, out)
    log = [entry for entry in manifest.metrics["log"] if "reward" in entry]
    assert log[-1]["reward"] > log[0]["reward"]

    def targets(prompts: Any) -> Tensor:
        return torch.from_numpy(prompts.targets[:, None])

    before, after = (item_log_probs(path, world, targets) for path in (start, out))
    assert float(after.exp().mean()) > 1.3 * float(before.exp().mean())
    figures = log[-1]
    assert figures["unique"] == 1
    assert 0 < figures["legal_mass"] <= 1 + 1e-5
    assert ("kl" in figures) is (config.beta > 0)
    if config.beta:
        assert log[0]["kl"] == pytest.approx(0, abs=1e-6)
        assert figures["kl"] > 0
    assert any(entry.get("clipped") for entry in manifest.metrics["log"]) is (
        config.updates_per_rollout > 1
    )
    if config.add_target:
        assert figures["groups_with_hit"] == 1


def test_grpo_follows_a_rankers_scores(world: World, start: Path, tmp_path: Path) -> None:
    shutil.copytree(start.parent, tmp_path / "run")
    out = tmp_path / "run" / "grpo"
    asked: list[tuple[Any, Any]] = []

    def score(queries: Any, items: Any) -> Any:
        asked.append((queries, items))
        return (items % 2).astype(np.float32)  # likes odd items

    rewards = RewardScores(world.corpus.manifest, score)
    weights = {"hit": 0.0, "rank": 0.0, "ranker": 1.0}
    config = grpo_config({"num_train_epochs": 8}, rewards=weights)
    with pytest.raises(ValueError, match=r"rewards\.ranker: needs a trained CTR model"):
        align(config, tmp_path / "run" / "lm", world.corpus, world.sids, out)
    with pytest.raises(ValueError, match=r"rewards\.ranker is 0; set its weight"):
        align(
            grpo_config(), tmp_path / "run" / "lm", world.corpus, world.sids, out,
            reward_scores=rewards,
        )  # fmt: skip
    manifest = align(
        config, tmp_path / "run" / "lm", world.corpus, world.sids, out, reward_scores=rewards
    )
    assert manifest.inputs["reward_scores"] == world.corpus.manifest.fingerprint
    queries = np.concatenate([q for q, _ in asked])
    assert (world.corpus.split[queries] == 0).all()  # only training positions are asked
    assert all(items.shape == (len(q), 8) for q, items in asked)
    everything = torch.arange(48).expand(60, 48)
    before, after = (item_log_probs(path, world, everything).exp() for path in (start, out))
    assert float(after[:, 1::2].sum(1).mean()) > float(before[:, 1::2].sum(1).mean()) + 0.15


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_interrupted_alignment_resumes_to_the_same_bytes(
    world: World, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    inside = {"num_train_epochs": 3, "save_steps": 2}  # resumed in the middle of an epoch
    config: Any = dpo_config({"num_train_epochs": 3}, validation_queries=20)
    if method == "grpo":
        values = {"rollout": "sample", "updates_per_rollout": 2}
        config = grpo_config(inside, validation_queries=20, **values)
    prints = []
    for name, broken in (("straight", False), ("broken", True)):
        folder = tmp_path / name
        shutil.copytree(start.parent, folder)
        out = folder / method

        def run(folder: Path = folder, out: Path = out) -> Any:
            return align(config, folder / "lm", world.corpus, world.sids, out)

        if broken:
            with monkeypatch.context() as patch:
                interrupt(patch, at_step=4)
                with pytest.raises(Interrupted):
                    run()
            assert list(folder.glob(".*.work/checkpoint-*"))
        prints.append(run().fingerprint)
        assert not list(folder.glob(".*"))
    assert prints[0] == prints[1]


def interrupt(patch: pytest.MonkeyPatch, at_step: int) -> None:
    """Raise at a step (60 prompts in batches of 20: 3 steps an epoch, 6 with two updates)."""
    from transformers import Trainer

    original = Trainer.training_step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == at_step:
            raise Interrupted
        return original(self, *args, **kwargs)

    patch.setattr(Trainer, "training_step", step)


def test_alignment_does_not_depend_on_validation_and_test_items(
    world: World, tmp_path: Path
) -> None:
    weights = []
    for items in (None, 5):
        root = tmp_path / str(items)
        corpus = make_corpus(root / "corpus", last_items=items)
        sids = make_sids(root / "sids", corpus)
        path = make_start(World(corpus, sids), root, epochs=1)
        for name, config in (("dpo", dpo_config()), ("grpo", grpo_config())):
            align(config, path, corpus, sids, root / name)
        files = [root / name / "adapter" / "adapter_model.safetensors" for name in ("dpo", "grpo")]
        weights.append([file.read_bytes() for file in files])
    assert weights[0] == weights[1]
    assert weights[0][0] != weights[0][1]


def test_the_start_is_kept_if_nothing_is_better(world: World, start: Path, tmp_path: Path) -> None:
    shutil.copytree(start.parent, tmp_path / "run")
    rewards = {"hit": -1.0, "rank": 0.0}  # away from the targets
    config = grpo_config(
        {"learning_rate": 0.1, "max_grad_norm": 1.0, "num_train_epochs": 3},
        validation_queries=60,
        rewards=rewards,
        beta=0.0,
    )
    out = tmp_path / "run" / "out"
    manifest = align(config, tmp_path / "run" / "lm", world.corpus, world.sids, out)
    assert manifest.metrics["improved"] is False
    before, after = adapter(start), adapter(out)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_base_model_gets_an_adapter_and_a_result_can_be_aligned_again(
    world: World, start: Path, tmp_path: Path
) -> None:
    shutil.copytree(start.parent, tmp_path / "run")
    lora = {"r": 2, "target_modules": "all-linear"}
    base, first, second = (tmp_path / "run" / name for name in ("base", "first", "second"))
    align(dpo_config(lora=lora), base, world.corpus, world.sids, first)
    manifest = align(grpo_config(), first, world.corpus, world.sids, second)
    assert manifest.inputs["start"] == load_manifest(first, "generator").fingerprint
    assert manifest.inputs["base_model"] == load_manifest(base, "base_model").fingerprint
    assert load_generator(second, world.sids).prompt == load_generator(base, world.sids).prompt
    with pytest.raises(ValueError, match="has an adapter to go on from; remove 'lora'"):
        align(grpo_config(lora=lora), first, world.corpus, world.sids, tmp_path / "third")


def test_faults_are_found_before_any_training(world: World, start: Path, tmp_path: Path) -> None:
    calls: list[tuple[Callable[[], object], type[Exception], str]] = [
        (
            lambda: align(dpo_config(), start, world.corpus, world.sids, start.parent / "base"),
            FileExistsError,
            "choose another folder",
        ),
        (
            lambda: align(
                dpo_config(negatives=48, candidates=48),
                start,
                world.corpus,
                world.sids,
                tmp_path / "out",
            ),
            ValueError,
            "no prompt has 48 items that its user does not have",
        ),
    ]
    for call, error, message in calls:
        with pytest.raises(error, match=message):
            call()
    other: SemanticIds = make_sids(tmp_path / "sids", world.corpus, user_side=False)
    with pytest.raises(ValueError, match="was built from semantic_ids"):
        align(dpo_config(), start, world.corpus, other, tmp_path / "out2")
