"""Canaries: faults of trl that we step around; see test_library_bugs.py."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, TrainableTokensConfig, get_peft_model
from tests.generative.canaries import (
    LORA,
    WARNINGS,
    Note,
    fails,
    move,
    opened,
    plain_llm,
    said_if_gone,
    saved_bases,
)
from tests.generative.test_models import one_step
from tests.generative.world import World, sft_config
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from dasrec.core import build_config
from dasrec.generative import GrpoConfig, SequenceBuilder, TaskWeights, add_lora, align
from dasrec.generative.data.config import DataConfig
from dasrec.generative.data.tasks import training_rows
from dasrec.generative.data.tokens import IGNORE
from dasrec.generative.preference.scoring import holding, trained_weights
from dasrec.generative.training.trainer import trainer_arguments

pytestmark = WARNINGS
bases = pytest.fixture(saved_bases, scope="module")
note = pytest.fixture(said_if_gone)


# 1 (training-and-ranking 2.4): trl copies an adapter as the reference by names that contain
# ".default.", which the trained token rows do not, so that the reference has untrained rows.
# When it goes: `SidDpoTrainer.__init__` need not delete trl's "ref", and `holding` may become it.
def test_the_reference_has_the_trained_rows(
    bases: dict[bool, Path], tmp_path: Path, note: Note
) -> None:
    model, tokenizer, vocabulary = opened(bases[False])
    wrapped = add_lora(model, vocabulary, LORA)
    move(wrapped)
    ids = torch.tensor([vocabulary.new_token_ids])
    with torch.no_grad():
        before = wrapped(input_ids=ids).logits
        start = trained_weights(wrapped)
        move(wrapped)
        assert not torch.allclose(wrapped(input_ids=ids).logits, before)
        with holding(wrapped, start):
            assert torch.equal(wrapped(input_ids=ids).logits, before)

    pairs = Dataset.from_dict({"prompt": ["<i0_1>"], "chosen": ["<i1_1>"], "rejected": ["<i1_2>"]})
    args = DPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    trainer = DPOTrainer(wrapped, args=args, train_dataset=pairs, processing_class=tokenizer)
    adapter = trainer.model.get_input_embeddings().token_adapter.trainable_tokens_delta
    copied = "ref" in adapter and torch.equal(adapter["ref"], adapter["default"])
    note(not copied, "SidDpoTrainer deleting trl's reference adapter")


# 2: trl's fused head reads `.bias` of an output layer whose token rows are trained, and peft's
# wrapper has none: AttributeError. When it goes: the last lines of `add_lora`.
@pytest.mark.parametrize("tied", [True, False])
def test_a_wrapped_head_has_a_bias_to_read(bases: dict[bool, Path], note: Note, tied: bool) -> None:
    model, _, vocabulary = opened(bases[tied])
    assert add_lora(model, vocabulary, LORA).get_output_embeddings().bias is None
    model, _, vocabulary = opened(bases[tied])
    new = vocabulary.new_token_ids
    indices = new if tied else {"embed_tokens": new, "lm_head": new}
    plain = get_peft_model(model, LoraConfig(**LORA, trainable_token_indices=indices))
    note(not hasattr(plain.get_output_embeddings(), "bias"), "setting head.bias in add_lora")


# 8: DPO and GRPO load the reference from config._name_or_path, which for a model resized in memory
# is the checkpoint without the new rows. When it goes: nothing; saving the base once stays right.
def test_the_path_of_a_base_model_has_its_rows(
    world: World, bases: dict[bool, Path], tmp_path: Path, note: Note
) -> None:
    model, _, _ = opened(bases[True])
    again = AutoModelForCausalLM.from_pretrained(model.config._name_or_path)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    plain, tokenizer, _ = plain_llm(world, tmp_path / "llm")
    plain.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    loaded = AutoModelForCausalLM.from_pretrained(plain.config._name_or_path)
    short = loaded.get_input_embeddings().weight.shape[0] < len(tokenizer)
    note(short, "saving the base model before training")


# 10: trl takes the token rows of a tied model, trained without LoRA, for an adapter of the output
# layer and refuses them. When it goes: token rows may be trained alone, without LoRA's matrices.
def test_trl_takes_the_token_rows_of_a_tied_model(
    bases: dict[bool, Path], tmp_path: Path, note: Note
) -> None:
    def trainer(model: Any, tokenizer: Any) -> SFTTrainer:
        options = {"max_steps": 1, "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
        args = SFTConfig(output_dir=str(tmp_path), report_to="none", disable_tqdm=True, **options)
        rows = Dataset.from_dict({"prompt": ["<i0_1>"], "completion": ["<i1_1>"]})
        return SFTTrainer(model, args=args, train_dataset=rows, processing_class=tokenizer)

    model, tokenizer, vocabulary = opened(bases[True])
    wrapped = add_lora(model, vocabulary, LORA)
    before = trained_weights(wrapped)
    trainer(wrapped, tokenizer).train()
    (rows,) = (name for name in before if "trainable_tokens" in name)
    assert not torch.equal(trained_weights(wrapped)[rows], before[rows])
    model, _, _ = opened(bases[True])
    alone = TrainableTokensConfig(
        token_indices=vocabulary.new_token_ids,
        target_modules=["embed_tokens"],
        task_type="CAUSAL_LM",
    )
    plain = get_peft_model(model, alone)
    note(fails(lambda: trainer(plain, tokenizer), ValueError), "LoRA beside the token rows")


# 13: GRPO learns nothing from groups whose members all earn the same, mostly those without a hit,
# and says nothing of the probability that lies on SIDs of no item. Both are the method's, so there
# is no fault to wait for: our log shows them, and `rewards.prefix` finds differences.
def test_the_log_tells_where_grpo_learns_nothing(
    world: World, bases: dict[bool, Path], tmp_path: Path
) -> None:
    def logged(**rewards: float) -> list[dict[str, Any]]:
        values = {
            "method": "grpo",
            "validation_queries": 0,
            "group_size": 12,
            "max_prompts": 12,
            "beta": 0.0,
            "lora": LORA,
            "rewards": {"rank": 0.0, **rewards},
            "trainer": {"per_device_train_batch_size": 1, "logging_strategy": "steps"}
            | {"logging_steps": 1},
        }
        out = tmp_path / "-".join(rewards)
        config: Any = build_config(GrpoConfig, values, "align")
        manifest = align(config, bases[True], world.corpus, world.sids, out)
        return [entry for entry in manifest.metrics["log"] if "reward" in entry]

    hits = logged(hit=1.0)
    assert {entry["groups_with_hit"] for entry in hits} == {0, 1}
    for entry in hits:
        assert entry["groups_without_gradient"] == 1 - entry["groups_with_hit"]
        assert (entry["grad_norm"] == 0) is (entry["groups_with_hit"] == 0)
        assert 0.5 < entry["legal_mass"] < 1  # 48 of 64 SIDs have an item
    assert all(entry["grad_norm"] > 0 for entry in logged(hit=1.0, prefix=1.0))


# 14: defaults of trl that bite: bf16 and activation checkpointing are on, and rows are cut at
# max_length 1024 from the end, where the target is. When it goes: these entries of
# `trainer_arguments`, and the max_length of `sft`.
def test_trainers_do_not_cut_rows_or_assume_an_accelerator(tmp_path: Path, note: Note) -> None:
    config = sft_config(**one_step())
    options = trainer_arguments(config, {}, tmp_path, 0)
    ours = SFTConfig(**{"max_length": None, **options})
    assert (ours.max_length, ours.bf16, ours.activation_checkpointing) == (None, False, False)
    fields = {field.name: field.default for field in dataclasses.fields(SFTConfig)}
    cut = fields["max_length"] is not None
    note(cut, "max_length: None in sft")
    plain = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    note(bool(plain.gradient_checkpointing), "activation_checkpointing in trainer_arguments")


# 15: trl finds the assistant's tokens through marks in the chat template, and knows how to add them
# to a few families' templates only. When it goes: nothing; our labels are made with the tokens.
def test_labels_need_no_chat_template(
    world: World, bases: dict[bool, Path], tmp_path: Path, note: Note
) -> None:
    model, tokenizer, vocabulary = opened(bases[True])
    assert tokenizer.chat_template is None
    builder = SequenceBuilder(world.sids, vocabulary)
    config = DataConfig(tasks=TaskWeights(item_to_text=1.0))

    def rows() -> list[list[dict[str, list[int]]]]:
        folder = tmp_path / str(tokenizer.chat_template is None)
        made = training_rows(
            config, world.corpus, builder, tokenizer, folder, max_tokens=None, seed=0
        )
        return [task.rows.to_list() for task in made]

    plain = sequences, texts = rows()
    codes = {token for level in vocabulary.item_levels for token in level}
    for row in sequences:
        assert row["labels"] == [t if t in codes else IGNORE for t in row["input_ids"]]
    for row in texts:
        answer = row["input_ids"].index(vocabulary.control["<|text|>"]) + 1
        assert row["labels"] == [IGNORE] * answer + row["input_ids"][answer:]

    tokenizer.chat_template = "{% for turn in messages %}{{ turn['content'] }}{% endfor %}"
    assert rows() == plain
    turns = [{"role": "user", "content": "<i0_1>"}, {"role": "assistant", "content": "<i1_1>"}]
    args = SFTConfig(
        output_dir=str(tmp_path / "trl"), use_cpu=True, bf16=False, assistant_only_loss=True
    )
    chats = Dataset.from_dict({"messages": [turns]})
    refused = fails(
        lambda: SFTTrainer(model, args=args, train_dataset=chats, processing_class=tokenizer),
        ValueError,
    )
    note(refused, "labels of our own instead of assistant_only_loss")
