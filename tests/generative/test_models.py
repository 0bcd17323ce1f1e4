import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from tests.generative.world import World, make_sids, pretrain_config, scratch, sft_config
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from dasrec.core import build_config
from dasrec.generative import (
    BaseModelConfig,
    FixedShapeSearch,
    PromptPrefix,
    RetrieveConfig,
    SearchResult,
    SidTrie,
    build_trie,
    constrained_beam_search,
    generate_lists,
    load_generator,
    load_vocabulary,
    pretrain,
    query_prompts,
    sft,
)
from dasrec.generative.model.base_model import build_base_model, load_base
from dasrec.generative.model.quantization import loading_options
from dasrec.generative.model.text_tokenizer import empty_tokenizer, train_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
]

GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128}
LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
OPT = {
    "hidden_size": 16,
    "ffn_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "word_embed_proj_dim": 16,
    "max_position_embeddings": 128,
}
FAMILIES: dict[str, tuple[dict[str, Any], bool]] = {
    "gpt2": (GPT2, True),
    "llama": (LLAMA, False),  # SmolLM and Llama 3.2 are tied ones
    "smollm3": (LLAMA, True),
    "qwen3": (LLAMA, True),
    "gemma2": (LLAMA | {"sliding_window": 8, "final_logit_softcapping": 3.0}, True),
    "gemma3_text": (LLAMA | {"sliding_window": 8, "sliding_window_pattern": 2}, True),
    "granite": (LLAMA | {"logits_scaling": 4.0}, False),
    "mistral": (LLAMA | {"sliding_window": 8}, False),
    "phi": (LLAMA, False),
    "phi3": (LLAMA, False),
    "gpt_neox": (LLAMA, False),
    "opt": (OPT, True),
}
ROWS = 300


def save_llm(
    path: Path, world: World, family: str, options: dict[str, Any], *, pad: bool = True, **more: Any
) -> Path:
    """A tiny random LM with more rows than tokens, as a checkpoint from the hub would lie there."""
    tokenizer: Any = train_tokenizer(280, world.corpus)
    if not pad:
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer, eos_token=tokenizer.eos_token
        )
    ids = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0 if pad else None}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(options | {"vocab_size": ROWS} | ids | more))
    model = AutoModelForCausalLM.from_config(config)
    output = model.get_output_embeddings()
    if output.bias is not None:
        torch.nn.init.normal_(output.bias)
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def one_step(**values: Any) -> dict[str, Any]:
    trainer = {"max_steps": 1, "learning_rate": 0.05, "per_device_train_batch_size": 4}
    return {"trainer": trainer, "validation_queries": 0} | values


def named(path: Path, **values: Any) -> BaseModelConfig:
    return build_config(BaseModelConfig, {"name": str(path)} | values, "base")


def plain_scores(model: Any, prompt: list[int], world: World, vocabulary: Any) -> Any:
    """(I,) log-probability of every item by plain passes over prompt and SID, without a cache."""
    items = torch.from_numpy(vocabulary.item_tokens(world.sids))
    ids = torch.cat([torch.tensor([prompt]).expand(len(items), -1), items], 1)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits.float()
    total = torch.zeros(len(items))
    for level, tokens in enumerate(vocabulary.item_levels):
        codes = torch.from_numpy(world.sids.items.codes[:, level].astype(np.int64))
        at = logits[:, len(prompt) - 1 + level, list(tokens)].log_softmax(-1)
        total += at.gather(1, codes[:, None]).squeeze(1)
    return total.numpy()


def check_lists(generator: Any, world: World) -> None:
    """Lists of prompts of unequal length are what scoring every item by plain passes gives."""
    builder = generator.sequence_builder(world.corpus, world.sids)
    prompts = query_prompts(world.corpus, builder, world.corpus.queries("test")[:4])
    trie = build_trie(world.corpus, world.sids, generator.vocabulary)
    config = RetrieveConfig(num_beams=48, num_items=10)
    items, scores = generate_lists(generator.model, trie, prompts, config)
    for row in range(4):
        prompt = prompts.tokens[prompts.starts[row] : prompts.starts[row + 1]].tolist()
        expected = plain_scores(generator.model, prompt, world, generator.vocabulary)
        np.testing.assert_allclose(scores[row], np.sort(expected)[::-1][:10], atol=1e-4)
        np.testing.assert_allclose(scores[row], expected[items[row]], atol=1e-4)
        for found in other_searches(generator.model, trie, prompt):
            np.testing.assert_allclose(found.scores[0], scores[row], atol=1e-4)
            np.testing.assert_allclose(found.scores[0], expected[found.items[0]], atol=1e-4)


def other_searches(model: Any, trie: SidTrie, prompt: list[int]) -> Iterator[SearchResult]:
    """The list of one prompt by a static cache, from a shared prefix and with fixed shapes."""
    options: dict[str, Any] = {"num_beams": 48, "num_items": 10}
    ids = torch.tensor([prompt])
    mask = torch.ones_like(ids)
    yield constrained_beam_search(model, ids, mask, trie, cache="static", **options)
    prefix = PromptPrefix(model, prompt[:2])
    if len(prompt) > 2:
        yield constrained_beam_search(
            model, ids[:, 2:], mask[:, 2:], trie, prefix=prefix, cache="static", **options
        )
    lengths = [len(prompt) + 3]
    yield FixedShapeSearch(model, trie, batch_size=2, prompt_lengths=lengths, **options)(ids, mask)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_decoder_goes_the_whole_way(world: World, tmp_path: Path, family: str) -> None:
    options, tied = FAMILIES[family]
    pad = family not in ("llama", "phi", "gpt_neox")
    llm = save_llm(tmp_path / "llm", world, family, options, pad=pad, tie_word_embeddings=tied)
    base = pretrain_config(**one_step(base={"name": str(llm)}))
    pretrain(base, world.corpus, world.sids, tmp_path / "base")
    sft(sft_config(**one_step()), tmp_path / "base", world.corpus, world.sids, tmp_path / "lm")

    generator = load_generator(tmp_path / "lm", world.sids)
    assert isinstance(generator.model, PeftModel)
    assert generator.model.config.tie_word_embeddings is tied
    rows = generator.model.get_input_embeddings().weight.shape[0]
    assert rows % 64 == 0
    assert rows > max(generator.vocabulary.new_token_ids)
    generation = generator.model.generation_config
    assert (generation.do_sample, generation.top_p) in ((False, None), (False, 1.0))
    check_lists(generator, world)

    # what the adapter computes is what its merged weights compute, in another process too
    ids = torch.tensor([[generator.vocabulary.control["<|anonymous|>"], *range(2, 9)]])
    with torch.no_grad():
        logits = generator.model(input_ids=ids).logits
        merged = generator.model.merge_and_unload()(input_ids=ids).logits
    torch.testing.assert_close(logits, merged, atol=1e-5, rtol=1e-4)


def test_rows_without_a_token_are_never_generated(world: World, tmp_path: Path) -> None:
    llm = save_llm(tmp_path / "llm", world, "llama", LLAMA)
    model, tokenizer, vocabulary = build_base_model(named(llm), world.corpus, world.sids, seed=0)
    weight = model.get_output_embeddings().weight
    first = max(vocabulary.new_token_ids) + 1
    assert len(tokenizer) == first < len(weight)
    text = weight[: len(train_tokenizer(280, world.corpus))]
    torch.testing.assert_close(weight[first:], text.mean(0).expand(len(weight) - first, -1))
    with torch.no_grad():
        weight[first:] = 100 * model.model.norm.weight  # now they would win
        weight[first:] *= torch.linspace(-1, 1, len(weight) - first)[:, None].sign()
    ids = torch.tensor([[5, 6, 7]])
    for options in ({"num_beams": 3}, {"do_sample": True}):
        torch.manual_seed(0)
        model.eval()
        out = model.generate(ids, max_new_tokens=8, **options)
        assert int(out.max()) < first


def test_what_cannot_generate_is_refused(world: World, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(280, world.corpus)
    bart = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": ROWS}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    bert = {k: v for k, v in LLAMA.items() if k not in ("head_dim", "num_key_value_heads")}
    ids = {"vocab_size": ROWS, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    tiny_vit = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    makers: dict[str, tuple[Callable[[], Any], str]] = {
        "bart": (
            lambda: AutoModelForSeq2SeqLM.from_config(
                AutoConfig.for_model("bart", **bart, **heads)
            ),
            r"'.*bart' is an encoder-decoder \(bart\); take a decoder-only model",
        ),
        "vit": (
            lambda: AutoModel.from_config(AutoConfig.for_model("vit", **tiny_vit)),
            r"'.*vit' \(vit\) has no language-model head for text",
        ),
        "bert": (
            lambda: AutoModelForCausalLM.from_config(AutoConfig.for_model("bert", **bert, **ids)),
            "BertLMHeadModel: reads ahead of the position it predicts",
        ),
        "headless": (
            lambda: AutoModel.from_config(
                AutoConfig.for_model("llama", **LLAMA, **ids, tie_word_embeddings=False)
            ),
            r"'.*headless' lacks weights of LlamaForCausalLM \(lm_head.weight and 0 more\)",
        ),
        "mamba": (
            lambda: AutoModelForCausalLM.from_config(
                AutoConfig.for_model("mamba", hidden_size=16, num_hidden_layers=1, **ids)
            ),
            "MambaForCausalLM: its decoder takes no past_key_values, position_ids",
        ),
    }
    for name, (make, message) in makers.items():
        make().save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        with pytest.raises(ValueError, match=message):
            build_base_model(named(tmp_path / name), world.corpus, world.sids, seed=0)
    with pytest.raises(ValueError, match=r"'.*nothing' could not be loaded from the hub"):
        build_base_model(named(tmp_path / "nothing"), world.corpus, world.sids, seed=0)


def test_a_family_with_its_own_output_transformation_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = save_llm(tmp_path / "llm", world, "granite", LLAMA | {"logits_scaling": 4.0})
    build_base_model(named(llm), world.corpus, world.sids, seed=0)
    monkeypatch.setattr("dasrec.generative.model.check.rescale", lambda logits, config: logits)
    with pytest.raises(ValueError, match="GraniteForCausalLM: transforms its hidden states"):
        build_base_model(named(llm), world.corpus, world.sids, seed=0)


def test_a_family_whose_cache_the_search_cannot_use_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = LLAMA | {"initializer_range": 0.5}
    llm = save_llm(tmp_path / "llm", world, "llama", options)
    build_base_model(named(llm), world.corpus, world.sids, seed=0)
    monkeypatch.setattr(  # as if padding moved the positions of a prompt
        "dasrec.generative.decoding.tree_beams.prompt_positions",
        lambda mask: torch.arange(mask.shape[1]).expand(len(mask), -1).flip(1),
    )
    with pytest.raises(ValueError, match="LlamaForCausalLM: a search with its key-value cache"):
        build_base_model(named(llm), world.corpus, world.sids, seed=0)


def test_tokens_that_are_taken_are_refused(world: World, tmp_path: Path) -> None:
    llm = save_llm(tmp_path / "llm", world, "llama", LLAMA)
    tokenizer = train_tokenizer(280, world.corpus)
    tokenizer.add_tokens(["<i1_2>"])
    tokenizer.save_pretrained(llm)
    with pytest.raises(ValueError, match=r"already has SID tokens \(<i1_2>\)"):
        build_base_model(named(llm), world.corpus, world.sids, seed=0)
    # control tokens are named so that those of chat models stay apart
    tokenizer = train_tokenizer(280, world.corpus)
    tokenizer.add_tokens(["<|user|>", "<|item|>"], special_tokens=True)
    tokenizer.save_pretrained(llm)
    _, tokenizer, vocabulary = build_base_model(named(llm), world.corpus, world.sids, seed=0)
    assert vocabulary.control["<|user|>"] != tokenizer.convert_tokens_to_ids("<|user|>")


def test_a_vocabulary_of_other_semantic_ids_is_refused(world: World, tmp_path: Path) -> None:
    config = pretrain_config(**one_step())
    pretrain(config, world.corpus, world.sids, tmp_path / "base")
    other = make_sids(tmp_path / "sids", world.corpus, user_side=False)
    vocabulary = load_vocabulary(tmp_path / "base")
    vocabulary.check(world.sids)
    with pytest.raises(ValueError, match=f"built from semantic IDs {world.sids.fingerprint}"):
        vocabulary.check(other)
    # a file that was edited or copied from another run
    path = tmp_path / "base" / "vocabulary.json"
    values = json.loads(path.read_text()) | {"sids_fingerprint": "0123"}
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="built from semantic IDs 0123, but"):
        load_generator(tmp_path / "base", world.sids)
    values |= {"sids_fingerprint": world.sids.fingerprint}
    values["item_levels"][2] = values["item_levels"][2][:3]
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"items levels of \(4, 4, 3\) codes.*\(4, 4, 4\)"):
        load_generator(tmp_path / "base", world.sids)


@pytest.mark.parametrize(("family", "tied"), [("llama", False), ("qwen3", True), ("phi", False)])
def test_a_model_cut_to_its_sid_tokens_decodes_as_the_whole_one(
    world: World, tmp_path: Path, family: str, tied: bool
) -> None:
    llm = save_llm(tmp_path / "llm", world, family, LLAMA, tie_word_embeddings=tied)
    found = []
    for cut in (False, True):
        config = named(llm, sid_vocabulary_only=cut)
        model, tokenizer, vocabulary = build_base_model(config, world.corpus, world.sids, seed=0)
        model.save_pretrained(tmp_path / str(cut))
        model = AutoModelForCausalLM.from_pretrained(tmp_path / str(cut)).eval()
        assert model.config.tie_word_embeddings is tied
        trie = build_trie(world.corpus, world.sids, vocabulary)
        ids = [vocabulary.control["<|user|>"], *(level[1] for level in vocabulary.user_levels)]
        ids += vocabulary.item_tokens(world.sids)[7].tolist()
        prompt = torch.tensor([ids])
        mask = torch.ones_like(prompt)
        found.append(constrained_beam_search(model, prompt, mask, trie, num_beams=48, num_items=48))
        if cut:
            assert vocabulary.has_text is False
            assert len(tokenizer) == 2 + len(vocabulary.new_token_ids)
            rows = model.get_output_embeddings().weight.shape[0]
            assert rows == model.config.vocab_size == -(-len(tokenizer) // 64) * 64
            # the row that gets no gradient is padding's
            assert model.get_input_embeddings().padding_idx in (None, tokenizer.pad_token_id)
            assert tokenizer("any text")["input_ids"] == []
    assert found[0].items.tolist() == found[1].items.tolist()
    torch.testing.assert_close(found[0].scores, found[1].scores)


def test_every_row_of_a_cut_model_but_paddings_has_a_gradient(world: World, tmp_path: Path) -> None:
    llm = save_llm(tmp_path / "llm", world, "llama", LLAMA)
    tokenizer = train_tokenizer(280, world.corpus)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(5)  # after the cut, a control token's id
    tokenizer.save_pretrained(llm)
    config = json.loads((llm / "config.json").read_text()) | {"pad_token_id": 5}
    (llm / "config.json").write_text(json.dumps(config))
    model, _, vocabulary = build_base_model(
        named(llm, sid_vocabulary_only=True), world.corpus, world.sids, seed=0
    )
    embedding = model.get_input_embeddings()
    embedding(torch.arange(model.config.vocab_size)).sum().backward()
    assert embedding.weight.grad[vocabulary.new_token_ids].abs().min() > 0
    assert (model.config.pad_token_id, model.config.eos_token_id) == (0, 1)


@pytest.mark.parametrize("source", ["named", "scratch"])
def test_a_model_of_sid_tokens_trains_without_text_only(
    world: World, tmp_path: Path, source: str
) -> None:
    llm = save_llm(tmp_path / "llm", world, "gpt2", GPT2)
    base = ({"name": str(llm)} if source == "named" else scratch("gpt2")) | {
        "sid_vocabulary_only": True
    }
    with pytest.raises(ValueError, match=r"sid_vocabulary_only: .*set tasks: \{next"):
        pretrain_config(**one_step(base=base))
    only = {"next_item": 1.0}
    config = pretrain_config(**one_step(base=base, tasks=only))
    pretrain(config, world.corpus, world.sids, tmp_path / "base")
    with pytest.raises(ValueError, match="the base model has no text tokens"):
        sft(
            sft_config(**one_step(tasks={"item_to_text": 1.0})),
            tmp_path / "base",
            world.corpus,
            world.sids,
            tmp_path / "lm",
        )
    sft(sft_config(**one_step()), tmp_path / "base", world.corpus, world.sids, tmp_path / "lm")
    generator = load_generator(tmp_path / "lm", world.sids)
    new = generator.vocabulary.new_token_ids
    assert new == list(range(2, 2 + len(new)))
    check_lists(generator, world)


def test_the_weights_type_is_kept(world: World, tmp_path: Path) -> None:
    for base in (scratch("qwen3"), {"name": str(save_llm(tmp_path / "m", world, "qwen3", LLAMA))}):
        config = build_config(BaseModelConfig, base | {"dtype": "bfloat16"}, "base")
        model, _, _ = build_base_model(config, world.corpus, world.sids, seed=0)
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_an_empty_tokenizer_reads_no_text() -> None:
    tokenizer = empty_tokenizer()
    assert tokenizer.get_vocab() == {"<|pad|>": 0, "<|end|>": 1}
    assert tokenizer("some text <|end|>")["input_ids"] == [1]


def test_quantization_needs_its_library(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dasrec.generative.model.quantization.find_spec", lambda name: None)
    config = build_config(BaseModelConfig, scratch("gpt2") | {"quantization": "4bit"}, "base")
    with pytest.raises(ValueError, match="quantization: '4bit' needs bitsandbytes, which is not"):
        build_base_model(config, world.corpus, world.sids, seed=0)
    with pytest.raises(ValueError, match="quantization: '8bit' needs bitsandbytes, which is not"):
        loading_options({"quantization": "8bit", "dtype": "float32"})


def test_a_quantized_base_is_loaded_as_it_asks(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dasrec.generative.model.quantization.find_spec", lambda name: object())
    base = scratch("qwen3") | {"quantization": "4bit", "dtype": "bfloat16"}
    trainer = {"num_train_epochs": 0}
    config = pretrain_config(base=base, trainer=trainer, validation_queries=0)
    pretrain(config, world.corpus, world.sids, tmp_path / "base")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")  # saved in its own type
    assert not getattr(plain, "is_quantized", False)

    asked: dict[str, Any] = {}

    def loaded(path: Any, **options: Any) -> Any:
        asked.update(options)
        return plain

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", loaded)
    load_base(tmp_path / "base")
    chosen = asked["quantization_config"]
    assert (chosen.load_in_4bit, chosen.load_in_8bit) == (True, False)
    assert (chosen.bnb_4bit_quant_type, chosen.bnb_4bit_use_double_quant) == ("nf4", True)
    assert chosen.bnb_4bit_compute_dtype == torch.bfloat16
    assert loading_options({"quantization": "8bit"})["quantization_config"].load_in_8bit
    assert loading_options({"quantization": None}) == loading_options({}) == {}


@pytest.mark.gpu
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_quantized_base_is_fine_tuned(world: World, tmp_path: Path, bits: str) -> None:
    pytest.importorskip("bitsandbytes")
    if not torch.cuda.is_available():
        pytest.skip("needs an accelerator")
    base = scratch("llama", hidden_size=64, intermediate_size=128) | {"quantization": bits}
    config = pretrain_config(**one_step(base=base | {"dtype": "bfloat16"}))
    pretrain(config, world.corpus, world.sids, tmp_path / "base")
    sft(sft_config(**one_step()), tmp_path / "base", world.corpus, world.sids, tmp_path / "lm")
    generator = load_generator(tmp_path / "lm", world.sids)
    assert generator.model.is_quantized
    check_lists(generator, world)
