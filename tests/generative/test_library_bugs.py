"""Canaries: faults of trl, peft and transformers that we step around.

Each test asserts that our path is right, whatever the library does. Where a library's own call no
longer shows the fault, a line says which work-around of ours may go; that fails nothing.
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tests.generative.test_models import LLAMA, named, one_step, save_llm
from tests.generative.world import World, pretrain_config, sft_config
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, SFTConfig

from dasrec.generative import add_lora, pretrain
from dasrec.generative.model.base_model import build_base_model, load_base
from dasrec.generative.model.vocabulary import add_sid_tokens, load_vocabulary
from dasrec.generative.preference.scoring import holding, trained_weights
from dasrec.generative.training.trainer import trainer_arguments

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied:UserWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
]

LORA = {"r": 2, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
Note = Callable[[bool, str], None]


@pytest.fixture
def note(capsys: pytest.CaptureFixture[str]) -> Note:
    def say(fault: bool, workaround: str) -> None:
        if not fault:
            with capsys.disabled():
                sys.stdout.write(f"\ncanary: the library's fault is gone; {workaround} may go\n")

    return say


@pytest.fixture(scope="module")
def bases(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Saved SID base models, tied and untied."""
    root = tmp_path_factory.mktemp("bases")
    for tied in (True, False):
        llm = save_llm(root / f"llm{tied}", world, "qwen3", LLAMA, tie_word_embeddings=tied)
        config = pretrain_config(
            base={"name": str(llm)}, trainer={"num_train_epochs": 0}, validation_queries=0
        )
        pretrain(config, world.corpus, world.sids, root / str(tied))
    return {tied: root / str(tied) for tied in (True, False)}


def opened(path: Path) -> tuple[Any, Any, Any]:
    model, tokenizer = load_base(path)
    return model.eval(), tokenizer, load_vocabulary(path)


def move(model: Any) -> None:
    """As training would: every trained parameter somewhere else."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))


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


# 2b (peft #3649): the wrapper multiplies by the merged weight and leaves out the head's bias.
# When it goes: the sentence and the bias in SplitTokensLayer.forward_adapters.
def test_a_wrapped_head_keeps_its_bias(world: World, tmp_path: Path, note: Note) -> None:
    llm = save_llm(tmp_path / "llm", world, "phi", LLAMA, tie_word_embeddings=False)
    model, _, vocabulary = build_base_model(named(llm), world.corpus, world.sids, seed=0)
    model.eval()
    ids = torch.tensor([vocabulary.new_token_ids[:5]])
    new = vocabulary.new_token_ids
    indices = {"embed_tokens": new, "lm_head": new}
    with torch.no_grad():
        before = model(input_ids=ids).logits
        plain = get_peft_model(model, LoraConfig(**LORA, trainable_token_indices=indices))
        wrong = not torch.allclose(plain(input_ids=ids).logits, before, atol=1e-4)
        ours = add_lora(plain.unload(), vocabulary, LORA)
        torch.testing.assert_close(ours(input_ids=ids).logits, before)
    note(wrong, "the bias in SplitTokensLayer")


# 3: a plain list of token indices on an untied model trains the input side only.
# When it goes: the dict of `add_lora`.
def test_both_sides_of_an_untied_model_train(bases: dict[bool, Path], note: Note) -> None:
    def sides(wrapped: Any) -> int:
        return sum("trainable_tokens_delta" in n for n, p in wrapped.named_parameters())

    model, _, vocabulary = opened(bases[False])
    assert sides(add_lora(model, vocabulary, LORA)) == 2
    model, _, vocabulary = opened(bases[False])
    new = vocabulary.new_token_ids
    plain = get_peft_model(model, LoraConfig(**LORA, trainable_token_indices=new))
    note(sides(plain) == 1, "naming both matrices in add_lora")


# 5: modules_to_save of both matrices of a tied model unties it (peft 0.21 warns of it).
# When it goes: nothing; we train token rows instead, which this asserts.
def test_a_tied_model_stays_tied(bases: dict[bool, Path], note: Note) -> None:
    def tied(wrapped: Any) -> bool:
        merged = wrapped.merge_and_unload()
        ends = (merged.get_input_embeddings().weight, merged.get_output_embeddings().weight)
        return bool(merged.config.tie_word_embeddings) and torch.equal(*ends)

    model, _, vocabulary = opened(bases[True])
    wrapped = add_lora(model, vocabulary, LORA)
    move(wrapped)
    assert tied(wrapped)
    model, _, _ = opened(bases[True])
    both = ["embed_tokens", "lm_head"]
    plain = get_peft_model(model, LoraConfig(**LORA, modules_to_save=both))
    move(plain)
    note(not tied(plain), "the advice against modules_to_save")


def plain_llm(world: World, path: Path, **options: Any) -> tuple[Any, Any, list[int]]:
    """A model resized in memory, as most examples do it."""
    llm = save_llm(path, world, "llama", LLAMA | options, tie_word_embeddings=False)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(llm),
        AutoTokenizer.from_pretrained(llm),
    )
    vocabulary = add_sid_tokens(tokenizer, world.sids)
    return model, tokenizer, vocabulary.new_token_ids


# 6: mean_resizing (the default) scales the covariance by 1e-9, so that all new rows are the same.
# When it goes: `token_init: text_mean` may become mean_resizing=True.
def test_new_rows_differ_from_each_other(world: World, tmp_path: Path, note: Note) -> None:
    model, tokenizer, _ = plain_llm(world, tmp_path / "llm")
    real = float(torch.pdist(model.get_input_embeddings().weight[:200].detach()).median())
    ours, _, vocabulary = build_base_model(
        named(tmp_path / "llm"), world.corpus, world.sids, seed=0
    )
    rows = ours.get_input_embeddings().weight[vocabulary.new_token_ids]
    assert float(torch.pdist(rows.detach()).median()) > real / 2
    before = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(len(tokenizer) + 64)  # above the spare rows
    late = model.get_input_embeddings().weight[before:].detach()
    note(float(torch.pdist(late).median()) < real / 100, "set_new_rows under text_mean")


# 7: checkpoints have more rows than tokens; the first new tokens get these old rows, the others
# new ones. When it goes (it will not): set_new_rows setting every row.
def test_spare_rows_of_a_checkpoint_are_set_too(world: World, tmp_path: Path, note: Note) -> None:
    model, tokenizer, new = plain_llm(world, tmp_path / "llm")
    spare = model.get_input_embeddings().weight.shape[0] - new[0]
    assert spare > 0
    with torch.no_grad():
        for part in (model.get_input_embeddings(), model.get_output_embeddings()):
            part.weight[new[0] :] = 7.0
    model.save_pretrained(tmp_path / "llm")
    ours, _, vocabulary = build_base_model(
        named(tmp_path / "llm"), world.corpus, world.sids, seed=0
    )
    for part in (ours.get_input_embeddings(), ours.get_output_embeddings()):
        assert float(part.weight[vocabulary.new_token_ids[0] :].detach().max()) < 1
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    old = (model.get_input_embeddings().weight[new[:spare]] == 7.0).all()
    note(bool(old), "setting the rows of spare tokens")


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


# 9: on a model resized in memory peft saves both whole matrices with the adapter.
# When it goes: nothing; saving the base once stays right.
def test_an_adapter_holds_lora_and_token_rows_only(
    world: World, bases: dict[bool, Path], tmp_path: Path, note: Note
) -> None:
    model, _, vocabulary = opened(bases[False])
    wrapped = add_lora(model, vocabulary, LORA)
    wrapped.save_pretrained(tmp_path / "ours")
    saved = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    assert all("lora_" in name or "trainable_tokens_delta" in name for name in saved)
    rows = len(vocabulary.new_token_ids)
    assert {len(w) for name, w in saved.items() if "trainable_tokens" in name} == {rows}
    plain, tokenizer, new = plain_llm(world, tmp_path / "llm")
    plain.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    indices = {"embed_tokens": new, "lm_head": new}
    adapter: PeftModel = get_peft_model(plain, LoraConfig(**LORA, trainable_token_indices=indices))
    adapter.save_pretrained(tmp_path / "plain")
    saved = load_file(tmp_path / "plain" / "adapter_model.safetensors")
    bloated = any(len(weight) >= len(tokenizer) for weight in saved.values())
    note(bloated, "saving the base model before training")


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
