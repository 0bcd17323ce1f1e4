import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import PeftModel
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
from transformers import AutoModelForCausalLM, GenerationConfig

from dasrec.core import build_config, load_manifest, load_recommendations
from dasrec.generative import (
    BaseModelConfig,
    RetrieveConfig,
    SequenceBuilder,
    add_lora,
    build_trie,
    load_generator,
    pretrain,
    query_prompts,
    retrieve,
    sft,
)
from dasrec.generative.data.sequences import as_table, sequence_dataset, training_windows
from dasrec.generative.data.text_tasks import TextTasks
from dasrec.generative.data.tokens import IGNORE
from dasrec.generative.decoding.exhaustive import score_items
from dasrec.generative.model.base_model import base_inputs, build_base_model
from dasrec.generative.training.loss import SidLoss

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
]


def base(world: World, architecture: str, **options: Any) -> tuple[Any, Any, Any]:
    config = build_config(BaseModelConfig, scratch(architecture, **options), "base")
    return build_base_model(config, world.corpus, world.sids, seed=0)


def prefix_loss(model: Any, vocabulary: Any, ids: Tensor, labels: Tensor) -> tuple[float, int]:
    """The loss written from its definition: one forward pass per target, on its prefix alone."""
    total, count = 0.0, 0
    for row, targets in zip(ids, labels, strict=True):
        for t in range(1, len(row)):
            if targets[t] == IGNORE:
                continue
            logits = model(input_ids=row[None, :t]).logits[0, -1].float()
            for level in vocabulary.item_levels:
                if int(targets[t]) in level:
                    logits = torch.full_like(logits, -torch.inf).index_copy(
                        0, torch.tensor(level), logits[list(level)]
                    )
            total -= float(logits.log_softmax(-1)[targets[t]])
            count += 1
    return total, count


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3", "gemma2", "granite"])
def test_all_position_loss_equals_the_loss_of_every_prefix(world: World, architecture: str) -> None:
    model, tokenizer, vocabulary = base(world, architecture)
    builder = SequenceBuilder(world.sids, vocabulary)
    rows = [sequence_dataset(world.corpus, builder)[i] for i in (0, 1)]
    text = TextTasks(
        world.corpus,
        builder,
        tokenizer,
        training_windows(world.corpus, 20),
        max_text_tokens=6,
        max_tokens=None,
        seed=0,
    )
    rows += [
        Dataset(as_table(text.item_to_text(0, 2)))[0],
        Dataset(as_table(text.text_to_item(0, 2)))[1],
    ]
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    labels = torch.full((len(rows), width), IGNORE)
    for index, row in enumerate(rows):
        ids[index, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
        labels[index, : len(row["labels"])] = torch.tensor(row["labels"])
    model.eval()
    with torch.no_grad():
        hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        total, count = SidLoss(vocabulary)(model, hidden, labels)
        expected, targets = prefix_loss(model, vocabulary, ids, labels)
    assert count == targets
    assert float(total) == pytest.approx(expected, rel=1e-4)


def test_batches_of_like_length_learn_what_one_batch_of_all_rows_does(
    world: World, tmp_path: Path
) -> None:
    """Of so small steps that their sum over an epoch is the number of batches times the step of
    all rows together: every target weighs the same, whatever the length of its row."""
    tiny: dict[str, Any] = {"learning_rate": 2e-4, "num_train_epochs": 1, "max_grad_norm": 0.0}
    tiny |= {"optim": "sgd", "lr_scheduler_type": "constant"}
    exact = scratch("gpt2", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    ways: dict[str, dict[str, Any]] = {
        "start": {"trainer": tiny | {"num_train_epochs": 0}},
        "whole": {"trainer": tiny | {"per_device_train_batch_size": 60}},
        "grouped": {
            "batching": "padded",
            "trainer": tiny | {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2},
        },
    }
    found = {}
    for name, values in ways.items():
        common: dict[str, Any] = {"base": exact, "user_dropout": 0.0, "validation_queries": 0}
        config = pretrain_config(**common, tasks={"next_item": 1.0}, **values)
        pretrain(config, world.corpus, world.sids, tmp_path / name)
        weights = load_file(tmp_path / name / "model.safetensors")
        found[name] = torch.cat([value.flatten() for _, value in sorted(weights.items())])
    whole, grouped = found["whole"] - found["start"], found["grouped"] - found["start"]
    assert float((grouped - 10 * whole).norm() / grouped.norm()) < 0.02


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["gpt2", "qwen3"])
def test_lora_trains_its_matrices_and_the_new_rows_and_nothing_else(
    world: World, architecture: str, tied: bool
) -> None:
    model, _, vocabulary = base(world, architecture, tie_word_embeddings=tied)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    wrapped = add_lora(model, vocabulary, {"r": 2, "target_modules": "all-linear"})
    names = [name for name, p in wrapped.named_parameters() if p.requires_grad]
    assert names
    assert all("lora_" in name or "trainable_tokens_delta" in name for name in names)
    rows = sum("trainable_tokens_delta" in name for name in names)
    assert rows == (1 if tied else 2)

    builder = SequenceBuilder(world.sids, vocabulary)
    row = sequence_dataset(world.corpus, builder)[0]
    ids, labels = (torch.tensor([row[key]]) for key in ("input_ids", "labels"))
    wrapped.train()
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=1.0)
    hidden = wrapped(input_ids=ids, output_hidden_states=True).hidden_states[-1]
    SidLoss(vocabulary)(wrapped, hidden, labels).total.backward()
    optimizer.step()
    merged: Any = wrapped.merge_and_unload()
    new = torch.tensor(vocabulary.new_token_ids)
    moved = (merged.get_input_embeddings().weight != model_rows(before, "input", merged)).any(1)
    assert set(moved.nonzero().flatten().tolist()) <= set(new.tolist())
    used = torch.tensor(sorted(set(row["input_ids"]) & set(new.tolist())))
    assert moved[used].all()
    if not tied:
        out = (merged.get_output_embeddings().weight != model_rows(before, "output", merged)).any(1)
        assert out.any()
        assert set(out.nonzero().flatten().tolist()) <= set(new.tolist())


def test_text_targets_in_parts_have_the_loss_and_the_gradient_of_all_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer, vocabulary = base(world, "gemma2", final_logit_softcapping=5.0)
    text = torch.randint(2, len(tokenizer) - len(vocabulary.new_token_ids), (3, 9))
    item = torch.tensor(vocabulary.item_levels[0])[torch.randint(0, 3, (3, 2))]
    labels = torch.cat([text, item], 1)
    hidden = torch.randn(*labels.shape, model.config.hidden_size, requires_grad=True)
    found = []
    for limit in (2**26, 4 * model.config.vocab_size):  # all at once; four targets at a time
        monkeypatch.setattr("dasrec.generative.training.loss.TEXT_LOGITS", limit)
        total = SidLoss(vocabulary, label_smoothing=0.1)(model, hidden, labels).total
        weight = model.get_output_embeddings().weight
        found.append((total.detach(), *torch.autograd.grad(total, [hidden, weight])))
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole)


def model_rows(before: dict[str, Tensor], side: str, merged: Any) -> Tensor:
    wanted = getattr(merged, f"get_{side}_embeddings")().weight
    name = next(n for n, p in merged.named_parameters() if p is wanted)
    return before[name]


def test_trained_rows_of_a_wrapped_head_give_the_merged_models_loss(world: World) -> None:
    model, _, vocabulary = base(world, "qwen3", tie_word_embeddings=False)
    wrapped = add_lora(model, vocabulary, {"r": 2, "target_modules": "all-linear"})
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    row = sequence_dataset(world.corpus, SequenceBuilder(world.sids, vocabulary))[1]
    ids, labels = (torch.tensor([row[key]]) for key in ("input_ids", "labels"))
    losses = []
    wrapped.eval()
    for part in (wrapped, wrapped.merge_and_unload()):
        hidden = part(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        losses.append(float(SidLoss(vocabulary)(part, hidden, labels).total.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_bfloat16_model_has_a_loss(world: World) -> None:
    model, _, vocabulary = base(world, "qwen3")
    wrapped = add_lora(model.bfloat16(), vocabulary, {"r": 2, "target_modules": "all-linear"})
    row = sequence_dataset(world.corpus, SequenceBuilder(world.sids, vocabulary))[0]
    ids, labels = (torch.tensor([row[key]]) for key in ("input_ids", "labels"))
    for part in (wrapped, wrapped.merge_and_unload()):
        hidden = part(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        assert hidden.dtype == torch.bfloat16
        assert float(SidLoss(vocabulary)(part, hidden, labels).total.detach()) > 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trainer": {"learnin_rate": 1e-3}}, "learnin_rate: transformers.*did you mean 'learn"),
        ({"trainer": {"learning_rate": "1e-3"}}, "expected a number, got the text '1e-3'"),
        ({"trainer": {"output_dir": "x"}}, "output_dir: is set by dasrec"),
        ({"base": scratch("gpt2", n_embed=8)}, "n_embed: the gpt2 config.*did you mean 'n_embd'"),
        ({"prompt": {"max_history": 0}}, "max_history: expected greater than or equal to 1"),
    ],
)
def test_wrong_options_are_found_at_once(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pretrain_config(**values)
    with pytest.raises(ValueError, match=r"rank: peft.LoraConfig has no such option"):
        sft_config(lora={"rank": 8})
    with pytest.raises(ValueError, match="packing: is set by dasrec"):
        sft_config(trainer={"packing": True})


def test_rows_longer_than_the_model_are_refused(world: World, tmp_path: Path) -> None:
    config = pretrain_config(base=scratch("gpt2", n_positions=24))
    with pytest.raises(ValueError, match=r"a training row has 3\d tokens, the model 24 positions"):
        pretrain(config, world.corpus, world.sids, tmp_path / "base")
    # up to 9 training events, and the validation event before the test event
    config = pretrain_config(base=scratch("gpt2", n_positions=34), tasks={"next_item": 1.0})
    with pytest.raises(ValueError, match="a request of the corpus has 35 tokens, the model 34 pos"):
        pretrain(config, world.corpus, world.sids, tmp_path / "base")


def test_a_sharded_model_is_not_validated(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=r"validation_queries: .*FSDP"):
        pretrain(pretrain_config(), world.corpus, world.sids, tmp_path / "base")


def test_a_base_model_given_by_path_is_an_input(world: World, tmp_path: Path) -> None:
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "config.json").write_text("{}")
    config = BaseModelConfig(name=str(tmp_path / "llm"))
    one = base_inputs(config)["base_files"].fingerprint
    (tmp_path / "llm" / ".cache").mkdir()
    (tmp_path / "llm" / ".cache" / "downloads").write_text("no part of the model")
    assert base_inputs(config)["base_files"].fingerprint == one
    (tmp_path / "llm" / "config.json").write_text("{ }")
    assert base_inputs(config)["base_files"].fingerprint != one
    assert base_inputs(BaseModelConfig(name="owner/model")) == {}


def test_a_named_base_keeps_its_text_rows_and_loses_its_sampling_defaults(
    world: World, tmp_path: Path
) -> None:
    plain, _, _ = base(world, "llama")
    plain.resize_token_embeddings(300)
    plain.generation_config = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9)
    plain.save_pretrained(tmp_path / "llm")
    fresh = _plain_tokenizer(world)
    fresh.save_pretrained(tmp_path / "llm")
    text = plain.get_input_embeddings().weight[: len(fresh)].clone()

    config = BaseModelConfig(name=str(tmp_path / "llm"))
    model, _, vocabulary = build_base_model(config, world.corpus, world.sids, seed=0)
    weight = model.get_input_embeddings().weight
    assert torch.equal(weight[: len(text)], text)
    rows = weight[torch.tensor(vocabulary.new_token_ids)]
    assert float(torch.pdist(rows.detach()).min()) > 1e-3  # no two SID rows are the same vector
    assert model.generation_config.do_sample is False
    assert model.generation_config.temperature in (None, 1.0)
    assert model.generation_config.top_p in (None, 1.0)


def _plain_tokenizer(world: World) -> Any:
    from dasrec.generative.model.text_tokenizer import train_tokenizer

    return train_tokenizer(280, world.corpus)


class Interrupted(Exception):
    pass


def interrupt_once(monkeypatch: pytest.MonkeyPatch, at_call: int) -> None:
    """Raise in the loss, in the middle of the second epoch."""
    calls = {"left": at_call}
    original = SidLoss.__call__

    def call(self: Any, *args: Any) -> Any:
        calls["left"] -= 1
        if calls["left"] == 0:
            raise Interrupted
        return original(self, *args)

    monkeypatch.setattr(SidLoss, "__call__", call)


def test_interrupted_training_resumes_to_the_same_bytes(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, broken in (("straight", False), ("broken", True)):
        folder = tmp_path / name
        stages: list[Callable[[Path], object]] = [
            lambda out: pretrain(pretrain_config(), world.corpus, world.sids, out / "base"),
            lambda out: sft(sft_config(), out / "base", world.corpus, world.sids, out / "lm"),
        ]
        for stage in stages:
            if broken:
                with monkeypatch.context() as patch:
                    interrupt_once(patch, at_call=13)
                    with pytest.raises(Interrupted):
                        stage(folder)
                assert list(folder.glob(".*.work/checkpoint-*"))
            stage(folder)
            assert not list(folder.glob(".*"))
    for kind, part in (("base_model", "base"), ("generator", "lm")):
        prints = {
            load_manifest(tmp_path / n / part, kind).files[
                "config.json" if kind == "base_model" else "adapter/adapter_model.safetensors"
            ]
            for n in ("straight", "broken")
        }
        assert len(prints) == 1
        whole = {
            load_manifest(tmp_path / n / part, kind).fingerprint for n in ("straight", "broken")
        }
        assert len(whole) == 1


def test_training_resumes_in_the_middle_of_an_epoch(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = {"learning_rate": 5e-3, "num_train_epochs": 2, "per_device_train_batch_size": 8}
    config = pretrain_config(trainer=trainer | {"save_steps": 3})
    run = partial(pretrain, config, world.corpus, world.sids)
    with monkeypatch.context() as patch:
        interrupt_once(patch, at_call=5)
        with pytest.raises(Interrupted):
            run(tmp_path / "broken")
    (checkpoint,) = (tmp_path / ".broken.work").glob("checkpoint-*")
    assert checkpoint.name == "checkpoint-3"  # of eight steps an epoch or more
    calls = []
    original = SidLoss.__call__

    def counted(*args: Any) -> Any:
        calls.append(args)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(SidLoss, "__call__", counted)
        run(tmp_path / "broken")
        resumed = len(calls)
        run(tmp_path / "straight")
    assert len(calls) - resumed == resumed + 3
    assert (
        load_manifest(tmp_path / "straight", "base_model").files
        == load_manifest(tmp_path / "broken", "base_model").files
    )


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    longer = {"learning_rate": 5e-3, "num_train_epochs": 60, "per_device_train_batch_size": 8}
    config = pretrain_config(
        base=scratch("gpt2", n_embd=32, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
        trainer=longer,
        tasks={},
        validation_queries=0,
    )
    pretrain(config, world.corpus, world.sids, root / "base")
    sft(sft_config(), root / "base", world.corpus, world.sids, root / "lm")
    return root


def test_a_trained_generator_finds_the_next_step_of_the_walk(
    world: World, trained: Path, tmp_path: Path
) -> None:
    config = RetrieveConfig(num_beams=48, num_items=10)
    retrieve(config, trained / "lm", world.corpus, world.sids, tmp_path / "lists")
    lists = load_recommendations(tmp_path / "lists", world.corpus)
    targets = world.corpus.item_idx[lists.queries]
    assert ((lists.item_idx == targets[:, None]).any(1)).mean() > 0.6
    assert (lists.item_idx >= 0).all()

    # equals scoring every item, with the adapter on
    generator = load_generator(trained / "lm", world.sids)
    trie = build_trie(world.corpus, world.sids, generator.vocabulary)
    builder = SequenceBuilder(world.sids, generator.vocabulary)
    prompts = query_prompts(world.corpus, builder, lists.queries[:5])
    for row in range(5):
        ids = torch.from_numpy(prompts.tokens[prompts.starts[row] : prompts.starts[row + 1]])[None]
        scores = score_items(generator.model, ids, torch.ones_like(ids), trie)[0].numpy()
        best = np.argsort(-scores, kind="stable")[:10]
        assert lists.item_idx[row].tolist() == best.tolist()
        np.testing.assert_allclose(lists.score[row], scores[best], atol=1e-4)


def test_a_base_model_generates_without_fine_tuning(
    world: World, trained: Path, tmp_path: Path
) -> None:
    config = RetrieveConfig(num_beams=48, num_items=10, splits=("test",))
    retrieve(config, trained / "base", world.corpus, world.sids, tmp_path / "lists")
    lists = load_recommendations(tmp_path / "lists", world.corpus)
    assert lists.queries.tolist() == world.corpus.queries("test").tolist()
    base = load_manifest(trained / "base", "base_model")
    assert lists.manifest is not None
    assert lists.manifest.inputs["generator"] == base.fingerprint

    model = AutoModelForCausalLM.from_pretrained(trained / "base").eval()
    vocabulary = load_generator(trained / "base", world.sids).vocabulary
    trie = build_trie(world.corpus, world.sids, vocabulary)
    builder = SequenceBuilder(world.sids, vocabulary)
    prompts = query_prompts(world.corpus, builder, lists.queries[:3])
    for row in range(3):
        ids = torch.from_numpy(prompts.tokens[prompts.starts[row] : prompts.starts[row + 1]])[None]
        scores = score_items(model, ids, torch.ones_like(ids), trie)[0].numpy()
        assert lists.item_idx[row].tolist() == np.argsort(-scores, kind="stable")[:10].tolist()


@pytest.mark.parametrize("splits", [(), ("train",), ("test", "test")])
def test_lists_are_for_valid_and_test_only(splits: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="expected valid, test or both"):
        RetrieveConfig(splits=splits)


def test_the_adapter_loads_with_plain_peft_and_transformers(
    world: World, trained: Path, tmp_path: Path
) -> None:
    generator = load_generator(trained / "lm", world.sids)
    model = AutoModelForCausalLM.from_pretrained(trained / "base")
    model = PeftModel.from_pretrained(model, trained / "lm" / "adapter").eval()
    ids = torch.tensor([[generator.vocabulary.control["<|anonymous|>"]]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, generator.model(ids).logits)
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(ids).logits, generator.model(ids).logits)
    text = (trained / "lm" / "adapter" / "adapter_config.json").read_text()
    assert json.loads(text)["base_model_name_or_path"] == "../base"
    assert str(tmp_path.anchor) + "tmp" not in text


def test_mismatched_pieces_are_refused(world: World, trained: Path, tmp_path: Path) -> None:
    other = make_sids(tmp_path / "sids", world.corpus, user_side=False)
    with pytest.raises(ValueError, match="was built from semantic_ids"):
        load_generator(trained / "lm", other)
    shutil.copytree(trained, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "base")
    with pytest.raises(FileNotFoundError, match="base_model"):
        load_generator(tmp_path / "copy" / "lm", world.sids)
    pretrain(pretrain_config(), world.corpus, world.sids, tmp_path / "copy" / "base")
    with pytest.raises(ValueError, match="was built on base model"):
        load_generator(tmp_path / "copy" / "lm", world.sids)


def test_weights_do_not_depend_on_test_items(world: World, tmp_path: Path) -> None:
    digests = []
    for items in (None, 5):
        root = tmp_path / str(items)
        corpus = make_corpus(root / "corpus", last_items=items)
        sids = make_sids(root / "sids", corpus)
        config = pretrain_config(validation_queries=0)  # selection may look at validation items
        pretrain(config, corpus, sids, root / "base")
        digests.append(load_manifest(root / "base", "base_model").files["model.safetensors"])
    assert digests[0] == digests[1]


def test_seen_items_are_left_out_if_training_never_repeats(
    world: World, trained: Path, tmp_path: Path
) -> None:
    corpus = world.corpus
    seen = {
        int(q): set(corpus.item_idx[corpus.user_start[corpus.user_idx[q]] : q].tolist())
        for split in ("valid", "test")
        for q in corpus.queries(split)
    }
    for rule, excluded in (("never", False), ("as_in_training", True), ("always", True)):
        config = RetrieveConfig(num_beams=48, num_items=36, exclude_seen=rule)  # type: ignore[arg-type]
        retrieve(config, trained / "lm", corpus, world.sids, tmp_path / rule)
        lists = load_recommendations(tmp_path / rule, corpus)
        overlap = [
            bool(seen[int(q)] & set(row.tolist()))
            for q, row in zip(lists.queries, lists.item_idx, strict=True)
        ]
        assert any(overlap) is not excluded
        assert (lists.item_idx >= 0).all()


def test_a_taken_path_is_refused_before_any_training(world: World, trained: Path) -> None:
    calls: list[Callable[[], object]] = [
        lambda: pretrain(pretrain_config(), world.corpus, world.sids, trained / "base"),
        lambda: sft(sft_config(), trained / "base", world.corpus, world.sids, trained / "lm"),
    ]
    for call in calls:
        with pytest.raises(FileExistsError, match="choose another folder"):
            call()
    assert not list(trained.glob(".*.work"))


def test_fine_tuning_in_full_makes_a_base_model(
    world: World, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "base", tmp_path / "base")
    config = sft_config(lora=None, batching="padded", rows="prefixes", validation_queries=0)
    manifest = sft(config, tmp_path / "base", world.corpus, world.sids, tmp_path / "lm")
    assert manifest.kind == "base_model"
    base = load_manifest(tmp_path / "base", "base_model")
    assert manifest.inputs["base_model"] == base.fingerprint
    assert set(manifest.files) == set(base.files)
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    for old, new in zip(before.parameters(), after.parameters(), strict=True):
        assert old.shape == new.shape
        assert not torch.equal(old, new)
    retrieve(RetrieveConfig(), tmp_path / "lm", world.corpus, world.sids, tmp_path / "lists")
    assert load_recommendations(tmp_path / "lists", world.corpus)


@pytest.mark.parametrize("lora", [None, {"r": 2, "target_modules": "all-linear"}])
def test_a_worse_epoch_leaves_the_base_model(
    world: World, trained: Path, tmp_path: Path, lora: dict[str, Any] | None
) -> None:
    """A learning rate that ruins the model: the artifact generates what the base model does."""
    shutil.copytree(trained / "base", tmp_path / "base")
    trainer = {"learning_rate": 1.0, "num_train_epochs": 1, "per_device_train_batch_size": 8}
    config = sft_config(lora=lora, trainer=trainer)
    manifest = sft(config, tmp_path / "base", world.corpus, world.sids, tmp_path / "lm")
    assert manifest.metrics["improved"] is False
    ids = torch.tensor([[5, 6, 7]])
    base, tuned = (load_generator(tmp_path / name, world.sids).model for name in ("base", "lm"))
    with torch.no_grad():
        torch.testing.assert_close(base(ids).logits, tuned(ids).logits)


def test_lora_targets_may_be_a_pattern(world: World, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "base", tmp_path / "base")
    lora = {"r": 2, "target_modules": r".*\.c_attn"}
    sft(sft_config(lora=lora), tmp_path / "base", world.corpus, world.sids, tmp_path / "lm")
    saved = json.loads((tmp_path / "lm" / "adapter" / "adapter_config.json").read_text())
    assert saved["target_modules"] == r".*\.c_attn"
    assert load_generator(tmp_path / "lm", world.sids)
