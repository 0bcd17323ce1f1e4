"""Canaries: faults of peft and transformers that we step around.

Each test asserts that our path is right, whatever the library does. Where a library's own call no
longer shows the fault, a line says which work-around of ours may go; that fails nothing. The
other numbers are in test_trl_bugs.py.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
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
from tests.generative.test_models import LLAMA, named, one_step, save_llm
from tests.generative.world import World, sft_config
from transformers import AutoModelForCausalLM

from dasrec.generative import add_lora, load_generator, sft
from dasrec.generative.model.base_model import build_base_model

pytestmark = WARNINGS
bases = pytest.fixture(saved_bases, scope="module")
note = pytest.fixture(said_if_gone)


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


# 4: LoRA alone leaves the rows of new tokens as they were set, however long it trains.
# When it goes: nothing; it is the meaning of LoRA, which `add_lora` adds the token rows to.
def test_the_rows_of_new_tokens_train(
    world: World, bases: dict[bool, Path], tmp_path: Path, note: Note
) -> None:
    def moved(wrapped: Any, new: list[int]) -> list[list[int]]:
        """The rows of both matrices that differ after a step on all new tokens."""
        sides = ("get_input_embeddings", "get_output_embeddings")
        before = [getattr(wrapped, side)().weight.detach().clone() for side in sides]
        ids = torch.tensor([[*new, new[0]]])
        optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=1.0)
        wrapped(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        merged = wrapped.merge_and_unload()
        after = [getattr(merged, side)().weight for side in sides]
        changed = [(a != b).any(1) for a, b in zip(after, before, strict=True)]
        return [rows.nonzero().flatten().tolist() for rows in changed]

    model, _, vocabulary = opened(bases[False])
    new = vocabulary.new_token_ids
    assert moved(add_lora(model, vocabulary, LORA), new) == [list(new), list(new)]
    plain, tokenizer, new = plain_llm(world, tmp_path / "llm")
    plain.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    note(
        moved(get_peft_model(plain, LoraConfig(**LORA)), new) == [[], []], "token rows in add_lora"
    )


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


# 11: an adapter does not know its base; on the checkpoint without the new rows it fails with a
# size or an index. When it goes (it will not): base.json and the check of `load_generator`.
def test_an_adapter_finds_its_base_and_refuses_others(
    world: World, bases: dict[bool, Path], tmp_path: Path, note: Note
) -> None:
    out, llm = tmp_path / "lm", bases[True].parent / "llmTrue"
    sft(sft_config(**one_step()), bases[True], world.corpus, world.sids, out)
    generator = load_generator(out, world.sids)
    saved = load_file(out / "adapter" / "adapter_model.safetensors")
    (rows,) = (weight for name, weight in saved.items() if "trainable_tokens" in name)
    head = generator.model.get_output_embeddings().token_adapter.get_merged_weights(["default"])
    assert torch.equal(head[generator.vocabulary.new_token_ids], rows)
    for base, error, text in (
        (bases[False], ValueError, "train the adapter again on this base"),
        (llm, FileNotFoundError, "base_model"),
    ):
        (out / "base.json").write_text(json.dumps({"path": os.path.relpath(base, out)}))
        with pytest.raises(error, match=text):
            load_generator(out, world.sids)
    short = AutoModelForCausalLM.from_pretrained(llm)
    broken = fails(
        lambda: PeftModel.from_pretrained(short, out / "adapter"), RuntimeError, IndexError
    )
    note(broken, "base.json")
