from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from dasrec.generative.decoding.exhaustive import score_items
from dasrec.generative.decoding.head import LevelHead, Normalize
from dasrec.generative.decoding.processors import SidTrieLogitsProcessor, prefix_allowed_tokens_fn
from dasrec.generative.decoding.search import SearchResult, constrained_beam_search
from dasrec.generative.decoding.trie import SidTrie

VOCAB, NUM_ITEMS = 60, 70
SIZES = (6, 5, 7)
NORMALIZERS: tuple[Normalize, ...] = ("level", "full", "trie")
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "initializer_range": 0.4,  # makes some items far more probable than others
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
GPT2 = {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 32}
SIMPLE = ("bos_token_id", "eos_token_id", "pad_token_id", "vocab_size", "initializer_range")
CONFIGS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: transformers.GPT2Config(**GPT2, **{k: COMMON[k] for k in SIMPLE}),
    "llama": lambda: transformers.LlamaConfig(**COMMON),
    "qwen3": lambda: transformers.Qwen3Config(**COMMON, tie_word_embeddings=True),
    # below: windows shorter than the prompts, capped logits, scaled logits
    "mistral": lambda: transformers.MistralConfig(**COMMON, sliding_window=5),
    "gemma2": lambda: transformers.Gemma2Config(
        **COMMON, sliding_window=5, final_logit_softcapping=2.0
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **COMMON, sliding_window=5, layer_types=["sliding_attention", "full_attention"]
    ),
    "phi": lambda: transformers.PhiConfig(  # its head has a bias
        **{k: v for k, v in COMMON.items() if k != "head_dim"}
        | {"num_attention_heads": 2, "num_key_value_heads": 2}
    ),
    "granite": lambda: transformers.GraniteConfig(**COMMON, logits_scaling=0.5),
}


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


def make_model(name: str, attention: str = "sdpa", seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[name](), attn_implementation=attention)
    return model.eval()


def make_trie(num_items: int = NUM_ITEMS, seed: int = 0) -> tuple[SidTrie, npt.NDArray[np.int64]]:
    """Distinct random SIDs over tokens that are neither contiguous nor in order."""
    rng = np.random.default_rng(seed)
    packed = rng.permutation(np.prod(SIZES))[:num_items]
    codes = np.stack(np.unravel_index(packed, SIZES), axis=1)
    tokens = np.split(rng.permutation(np.arange(1, VOCAB))[: sum(SIZES)], np.cumsum(SIZES)[:-1])
    return SidTrie.from_sids(codes, SIZES, tokens), codes


def make_prompts(batch: int = 3, length: int = 9) -> tuple[Tensor, Tensor]:
    """Left-padded prompts of different lengths, the first full."""
    ids = torch.randint(1, VOCAB, (batch, length))
    pad = torch.arange(batch) * 3 % length
    mask = (torch.arange(length) >= pad.unsqueeze(1)).long()
    return ids * mask, mask


@torch.no_grad()
def brute_force(
    model: Any, ids: Tensor, mask: Tensor, trie: SidTrie, codes: Any, normalize: str
) -> Tensor:
    """(B, I) scores by one plain forward pass of every prompt + SID, unpadded, no cache."""
    token_IL = torch.stack(
        [t[torch.from_numpy(codes[:, i])] for i, t in enumerate(trie.level_token_ids)], dim=1
    )
    num_items, num_levels = codes.shape
    scores = torch.zeros(len(ids), num_items)
    for b, (row, keep) in enumerate(zip(ids, mask.bool(), strict=True)):
        prompt = row[keep].expand(num_items, -1)
        logits = model(input_ids=torch.cat([prompt, token_IL], 1)).logits.float()
        logits = logits[:, -num_levels - 1 : -1]
        for i in range(num_items):
            for level in range(num_levels):
                table, value = trie.level_token_ids[level], logits[i, level]
                if normalize == "trie":
                    same = (codes[:, :level] == codes[i, :level]).all(1)
                    table = table[np.unique(codes[same, level])]
                z = (value if normalize == "full" else value[table]).logsumexp(0)
                scores[b, i] += value[token_IL[i, level]] - z
    return scores


def assert_ranking(result: SearchResult, scores: Tensor, k: int) -> None:
    values, items = scores.topk(k)
    assert torch.equal(result.items, items)
    torch.testing.assert_close(result.scores, values, atol=1e-4, rtol=0)
    assert (result.num_valid == k).all()


@pytest.mark.parametrize("normalize", NORMALIZERS)
@pytest.mark.parametrize(
    "name", ["gpt2", "llama", "qwen3", "mistral", "gemma2", "gemma3", "granite"]
)
def test_wide_search_is_brute_force(name: str, normalize: Normalize) -> None:
    attention = "eager" if name == "gemma2" else "sdpa"
    model, (trie, codes), (ids, mask) = make_model(name, attention), make_trie(), make_prompts()
    assert LevelHead(model, trie.level_token_ids).restricted  # no silent slow path
    expected = brute_force(model, ids, mask, trie, codes, normalize)
    for mode in ("tree", "expand"):
        found = constrained_beam_search(
            model,
            ids,
            mask,
            trie,
            num_beams=NUM_ITEMS,
            num_items=NUM_ITEMS,
            normalize=normalize,
            mode=mode,
        )
        assert_ranking(found, expected, NUM_ITEMS)
        assert (found.exact_prefix == NUM_ITEMS).all()
    every = score_items(model, ids, mask, trie, normalize=normalize, rows_per_pass=50)
    torch.testing.assert_close(every, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", ["tree", "expand"])
def test_window_shorter_than_a_sid(mode: Literal["tree", "expand"]) -> None:
    config = CONFIGS["gemma3"]()
    config.sliding_window = 2
    torch.manual_seed(0)
    model, (ids, mask) = AutoModelForCausalLM.from_config(config).eval(), make_prompts()
    codes = np.stack(np.unravel_index(np.random.default_rng(0).permutation(81)[:40], [3] * 4), 1)
    trie = SidTrie.from_sids(codes, [3] * 4, list(np.arange(1, 13).reshape(4, 3)))
    expected = brute_force(model, ids, mask, trie, codes, "level")
    found = constrained_beam_search(model, ids, mask, trie, num_beams=40, num_items=40, mode=mode)
    assert_ranking(found, expected, 40)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])
def test_eager_attention(name: str) -> None:
    model, (trie, codes), (ids, mask) = make_model(name, "eager"), make_trie(), make_prompts()
    found = constrained_beam_search(model, ids, mask, trie, num_beams=NUM_ITEMS, num_items=20)
    assert_ranking(found, brute_force(model, ids, mask, trie, codes, "level"), 20)


@pytest.mark.parametrize("normalize", NORMALIZERS)
def test_unknown_head_falls_back_to_full_logits(
    normalize: Normalize, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dasrec.generative.decoding.head.rescale", lambda logits, config: logits)
    model, (trie, codes), (ids, mask) = make_model("granite"), make_trie(), make_prompts()
    head = LevelHead(model, trie.level_token_ids)
    assert not head.restricted
    assert "GraniteForCausalLM" in caplog.text
    found = constrained_beam_search(
        model, ids, mask, trie, num_beams=99, num_items=NUM_ITEMS, normalize=normalize, head=head
    )
    assert_ranking(found, brute_force(model, ids, mask, trie, codes, normalize), NUM_ITEMS)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("normalize", NORMALIZERS)
@pytest.mark.parametrize(
    ("name", "tied", "lora_head"),
    [
        ("gpt2", True, False),
        ("qwen3", True, False),
        ("llama", False, False),
        ("llama", False, True),
        ("phi", False, True),
    ],
)
def test_adapters(name: str, tied: bool, lora_head: bool, normalize: Normalize) -> None:
    base, (trie, codes), (ids, mask) = make_model(name), make_trie(), make_prompts()
    if name == "phi":
        torch.nn.init.normal_(base.lm_head.bias)
        torch.nn.init.normal_(base.model.final_layernorm.bias)  # else hidden states sum to 0
    plain = brute_force(base, ids, mask, trie, codes, normalize)
    tokens = torch.cat(list(trie.level_token_ids)).tolist()
    trained: Any = tokens if tied else {"embed_tokens": tokens, "lm_head": tokens}
    config = LoraConfig(
        r=2,
        target_modules=["q_proj", "lm_head"] if lora_head else "all-linear",
        trainable_token_indices=None if lora_head else trained,
        fan_in_fan_out=name == "gpt2",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config)
    torch.manual_seed(1)
    for parameter_name, parameter in model.named_parameters():
        if "lora_" in parameter_name or "trainable_tokens" in parameter_name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    model.eval()
    assert LevelHead(model, trie.level_token_ids).restricted
    expected = brute_force(model, ids, mask, trie, codes, normalize)
    assert (expected - plain).abs().max() > 0.1  # the adapter matters

    def search(model: Any) -> SearchResult:
        return constrained_beam_search(
            model, ids, mask, trie, num_beams=99, num_items=NUM_ITEMS, normalize=normalize
        )

    assert_ranking(search(model), expected, NUM_ITEMS)
    with model.disable_adapter():
        assert_ranking(search(model), plain, NUM_ITEMS)
    assert_ranking(search(model.merge_and_unload()), expected, NUM_ITEMS)


@pytest.mark.parametrize("constraint", ["function", "processor"])
@pytest.mark.parametrize("num_beams", [2, 5, 20])
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])
def test_full_mode_is_generate(name: str, num_beams: int, constraint: str) -> None:
    model, (trie, codes), (ids, mask) = make_model(name), make_trie(), make_prompts()
    how: dict[str, Any] = {"prefix_allowed_tokens_fn": prefix_allowed_tokens_fn(trie, ids.shape[1])}
    if constraint == "processor":
        processor = SidTrieLogitsProcessor(trie, ids.shape[1])
        how = {"logits_processor": transformers.LogitsProcessorList([processor])}
    reference = model.generate(
        ids,
        attention_mask=mask,
        num_beams=num_beams,
        num_return_sequences=num_beams,
        do_sample=False,
        length_penalty=0.0,
        max_new_tokens=3,
        return_dict_in_generate=True,
        output_scores=True,
        **how,
    )
    found = constrained_beam_search(
        model, ids, mask, trie, num_beams=num_beams, num_items=num_beams, normalize="full"
    )
    new = reference.sequences[:, ids.shape[1] :]
    token_IL = torch.stack([t[codes[:, i]] for i, t in enumerate(trie.level_token_ids)], dim=1)
    items = (new.unsqueeze(1) == token_IL).all(-1).long().argmax(1).view(-1, num_beams)
    assert torch.equal(found.items, items)
    torch.testing.assert_close(
        found.scores, reference.sequences_scores.view(-1, num_beams), atol=1e-4, rtol=0
    )


def test_generate_with_more_beams_than_items_keeps_the_items() -> None:
    model, (trie, codes), (ids, mask) = make_model("qwen3"), make_trie(4), make_prompts()
    processor = SidTrieLogitsProcessor(trie, ids.shape[1])
    out = model.generate(
        ids,
        attention_mask=mask,
        num_beams=12,
        num_return_sequences=4,
        do_sample=False,
        length_penalty=0.0,
        max_new_tokens=3,
        logits_processor=transformers.LogitsProcessorList([processor]),
    )[:, ids.shape[1] :]
    token_IL = torch.stack([t[codes[:, i]] for i, t in enumerate(trie.level_token_ids)], dim=1)
    items = (out.unsqueeze(1) == token_IL).all(-1)
    assert items.any(1).all()
    with pytest.raises(ValueError, match="max_new_tokens=3"):
        processor(torch.cat([ids, ids[:, :3]], 1), torch.zeros(3, VOCAB))


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_result_does_not_depend_on_the_batch(name: str) -> None:
    model, (trie, _), (ids, mask) = make_model(name), make_trie(), make_prompts(5)
    excluded = [[1, 2, 3], [], [5], [7, 8], []]

    def search(rows: slice, pad: int) -> SearchResult:
        padded_ids, padded_mask = (torch.nn.functional.pad(x[rows], (pad, 0)) for x in (ids, mask))
        return constrained_beam_search(
            model,
            padded_ids,
            padded_mask,
            trie,
            num_beams=6,
            num_items=6,
            excluded=excluded[rows],
        )

    together = search(slice(None), 0)
    for b in range(5):
        alone = search(slice(b, b + 1), 4)
        assert torch.equal(alone.items[0], together.items[b])
        assert alone.exact_prefix[0] == together.exact_prefix[b]
        torch.testing.assert_close(alone.scores[0], together.scores[b], atol=1e-4, rtol=0)


@pytest.mark.parametrize("normalize", NORMALIZERS)
def test_certificate_is_never_wrong(normalize: Normalize) -> None:
    trie, codes = make_trie()
    proven = []
    for seed in range(4):
        model = make_model("qwen3", seed=seed)
        ids, mask = make_prompts(6)
        truth = brute_force(model, ids, mask, trie, codes, normalize).topk(NUM_ITEMS).indices
        for num_beams in (2, 5, 10, 20):
            found = constrained_beam_search(
                model, ids, mask, trie, num_beams=num_beams, num_items=2, normalize=normalize
            )
            for b, count in enumerate(found.exact_prefix.tolist()):
                assert found.items[b, :count].tolist() == truth[b, :count].tolist()
                proven.append(count)
    assert {0, 1, 2} <= set(proven)  # neither always nor never


def test_narrow_search_misses_what_the_certificate_does_not_claim() -> None:
    model, (trie, codes), (ids, mask) = make_model("llama"), make_trie(), make_prompts(8)
    truth = brute_force(model, ids, mask, trie, codes, "level").argmax(1)
    found = constrained_beam_search(model, ids, mask, trie, num_beams=1, num_items=1)
    wrong = found.items[:, 0] != truth
    assert wrong.any()  # greedy is not exact, else the test above shows nothing
    assert (found.exact_prefix[wrong] == 0).all()
    silent = constrained_beam_search(
        model, ids, mask, trie, num_beams=99, num_items=1, certify=False
    )
    assert torch.equal(silent.items[:, 0], truth)
    assert (silent.exact_prefix == 0).all()


def test_k_items_come_back_whatever_the_beams() -> None:
    model, (trie, _), (ids, mask) = make_model("qwen3"), make_trie(), make_prompts()
    rng = np.random.default_rng(0)
    for allowed_count in (10, 25):
        allowed = torch.zeros(NUM_ITEMS, dtype=torch.bool)
        allowed[rng.permutation(NUM_ITEMS)[:allowed_count]] = True
        found = constrained_beam_search(
            model, ids, mask, trie, num_beams=1, num_items=20, allowed=allowed
        )
        expected = min(20, allowed_count)
        assert found.num_valid.tolist() == [expected] * 3
        assert (found.items[:, expected:] == -1).all()
        assert found.scores[:, expected:].isneginf().all()
        for row in found.items[:, :expected]:
            assert allowed[row].all()
            assert len(row.unique()) == expected


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_the_prompt_is_read_once_per_user(name: str) -> None:
    """The cost that matters: T + W (L - 1) tokens per user, not W (T + L - 1)."""
    model, (trie, _), (ids, mask) = make_model(name), make_trie(), make_prompts()
    head = LevelHead(model, trie.level_token_ids)
    seen: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].numel())
    )
    constrained_beam_search(model, ids, mask, trie, num_beams=5, num_items=5, head=head)
    assert seen == [ids.numel(), 3 * 5, 3 * 5]


def test_widths_per_level() -> None:
    model, (trie, _), (ids, mask) = make_model("qwen3"), make_trie(), make_prompts()

    def search(widths: list[int] | None, num_beams: int = 5) -> SearchResult:
        return constrained_beam_search(
            model, ids, mask, trie, num_beams=num_beams, num_items=3, widths=widths
        )

    assert torch.equal(search([5, 5, 5]).items, search(None).items)
    assert torch.equal(search([1, 2, 2], 99).items, search(None, 3).items)  # raised to k
    # All of levels 0 and 1 open, so only the last level is cut, which loses nothing of the top 3.
    assert torch.equal(search([6, 30, 3]).items, search(None, 99).items)
    with pytest.raises(ValueError, match="one per level, got \\[5, 5\\]"):
        search([5, 5])


def test_items_sharing_a_sid_come_by_popularity() -> None:
    model, (ids, mask) = make_model("gpt2"), make_prompts(1)
    codes = np.array([[0, 0, 0], [1, 1, 1], [0, 0, 0], [1, 1, 1], [0, 0, 0], [2, 0, 1]])
    tokens = [np.arange(1, 7), np.arange(7, 12), np.arange(12, 19)]
    trie = SidTrie.from_sids(codes, SIZES, tokens, popularity=[1, 5, 9, 5, 3, 0])
    scores = brute_force(model, ids, mask, trie, codes, "level")[0]
    groups = {0: [2, 4, 0], 1: [1, 3], 5: [5]}
    expected = [i for g in sorted(groups, key=lambda g: -float(scores[g])) for i in groups[g]]
    for k in range(1, 8):  # cuts inside a group too
        found = constrained_beam_search(model, ids, mask, trie, num_beams=6, num_items=k)
        assert found.items[0].tolist() == [*expected, -1][:k]
        assert found.num_valid[0] == min(k, 6)


def test_ties_go_to_the_lower_sid() -> None:
    model, (trie, codes), (ids, mask) = make_model("llama"), make_trie(), make_prompts()
    model.lm_head.weight.data.zero_()  # every code of a level equally probable
    by_sid = sorted(range(NUM_ITEMS), key=lambda i: tuple(codes[i]))
    for num_beams in (10, 99):
        found = constrained_beam_search(model, ids, mask, trie, num_beams=num_beams, num_items=10)
        assert found.items.tolist() == [by_sid[:10]] * 3


def test_one_level() -> None:
    model, (ids, mask) = make_model("qwen3"), make_prompts()
    codes = np.array([[3], [0], [4]])
    trie = SidTrie.from_sids(codes, [5], [[9, 8, 7, 6, 5]])
    expected = brute_force(model, ids, mask, trie, codes, "trie")
    found = constrained_beam_search(
        model, ids, mask, trie, num_beams=2, num_items=3, normalize="trie"
    )
    assert_ranking(found, expected, 3)
    torch.testing.assert_close(
        score_items(model, ids, mask, trie, normalize="trie"), expected, atol=1e-4, rtol=0
    )


def test_bfloat16_keeps_most_of_the_ranking() -> None:
    model, (trie, codes), (ids, mask) = make_model("qwen3"), make_trie(), make_prompts()
    exact = brute_force(model, ids, mask, trie, codes, "level").topk(10).indices
    found = constrained_beam_search(
        model.to(torch.bfloat16), ids, mask, trie, num_beams=99, num_items=10
    )
    assert found.scores.dtype == torch.float32
    overlap = (found.items.unsqueeze(2) == exact.unsqueeze(1)).any(2).float().mean()
    assert overlap >= 0.8


def test_errors_come_before_work() -> None:
    model, (trie, _), (ids, mask) = make_model("gpt2"), make_trie(), make_prompts()

    def search(ids: Tensor = ids, mask: Tensor = mask, trie: SidTrie = trie, k: int = 1) -> None:
        constrained_beam_search(model, ids, mask, trie, num_beams=1, num_items=k)

    with pytest.raises(ValueError, match="num_items: at least 1"):
        search(k=0)
    with pytest.raises(ValueError, match="pad on the left"):
        search(mask=mask.flip(1))
    with pytest.raises(ValueError, match="two equal"):
        search(mask=mask[:1])
    with pytest.raises(ValueError, match="33 positions, the model has 32"):
        search(torch.ones(1, 31, dtype=torch.long), torch.ones(1, 31, dtype=torch.long))
    beyond = SidTrie.from_sids([[0]], [1], [[VOCAB]])
    with pytest.raises(ValueError, match="outside the model's vocabulary of 60"):
        search(trie=beyond)
    model.train()
    with pytest.raises(ValueError, match=r"model.eval\(\)"):
        search()
