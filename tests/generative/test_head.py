from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.generative.test_search import VOCAB, make_model, make_trie
from torch import Tensor

from dasrec.generative.decoding import head as head_module
from dasrec.generative.decoding.head import LevelHead
from dasrec.generative.model.split_tokens import split_token_rows

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

NEIGHBOURS = [torch.arange(1, 7), torch.arange(20, 25), torch.arange(50, 57)]
SCATTERED = list(make_trie()[0].level_token_ids)
SOME = [3, 4, 22, 51, 52, 53]
HEADS: dict[str, dict[str, Any]] = {
    "lora": {"target_modules": ["lm_head"]},
    "lora with a bias": {"target_modules": ["lm_head"], "lora_bias": True},
    "rslora": {"target_modules": ["lm_head"], "use_rslora": True, "r": 4},
    "all tokens": {"trainable_token_indices": {"lm_head": list(range(1, VOCAB))}},
    "some tokens": {"trainable_token_indices": {"lm_head": SOME}},
    "saved": {"modules_to_save": ["lm_head"]},
    "dora": {"target_modules": ["lm_head"], "use_dora": True},
}


def wrapped(name: str, kind: str, split: bool = True) -> Any:
    options = {"r": 2, "target_modules": ["q_proj"]} | HEADS[kind]
    model = get_peft_model(make_model(name), LoraConfig(task_type="CAUSAL_LM", **options))
    if split:
        split_token_rows(model)
    disturb(model)
    return model.eval()


@torch.no_grad()
def disturb(model: Any) -> None:
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("lora_", "trainable_tokens", "lm_head", "magnitude")):
            parameter += 0.3 * torch.randn_like(parameter)


@torch.no_grad()
def assert_logits(head: LevelHead, model: Any, tokens: list[Tensor], exact: float = 1e-4) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = model(input_ids=ids).logits.float()
    states = head.states(input_ids=ids)
    for level, table in enumerate(tokens):
        torch.testing.assert_close(
            head.logits(states, level), expected[..., table], atol=exact, rtol=exact
        )


@pytest.mark.parametrize("tokens", [NEIGHBOURS, SCATTERED], ids=["neighbours", "scattered"])
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", ["llama", "phi"])
def test_rows_are_what_the_head_computes_with(name: str, kind: str, tokens: list[Tensor]) -> None:
    if name == "llama" and kind == "lora with a bias":
        pytest.skip("a layer without a bias cannot take one up")
    model = wrapped(name, kind)
    head = LevelHead(model, tokens)
    assert head.restricted
    assert (head.rows(0) is None) == (kind == "dora")  # then run in full, and as right
    assert_logits(head, model, tokens)
    disturb(model)  # the head holds no copies
    assert_logits(head, model, tokens)
    with model.disable_adapter():
        assert_logits(head, model, tokens)
    model.merge_adapter()
    assert_logits(head, model, tokens)
    model.unmerge_adapter()
    disturb(model)
    assert_logits(head, model, tokens)


@pytest.mark.parametrize("name", ["llama", "phi"])
def test_token_rows_of_plain_peft(name: str) -> None:
    model = wrapped(name, "some tokens", split=False)
    head = LevelHead(model, NEIGHBOURS)
    assert head.rows(0) is not None
    assert_logits(head, model, NEIGHBOURS)


@pytest.mark.parametrize("name", ["gpt2", "phi"])
def test_neighbouring_rows_are_not_copied(name: str) -> None:
    model = make_model(name)
    head = LevelHead(model, NEIGHBOURS)
    rows = head.rows(1)
    assert rows is not None
    assert rows.weight.data_ptr() == model.get_output_embeddings().weight[20].data_ptr()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(0.5)
    assert_logits(head, model, NEIGHBOURS)


def test_all_trained_rows_are_not_copied() -> None:
    model = wrapped("llama", "all tokens")
    rows = LevelHead(model, NEIGHBOURS).rows(1)
    assert rows is not None
    trained = model.get_output_embeddings().token_adapter.trainable_tokens_delta["default"]
    assert rows.weight.data_ptr() == trained[19].data_ptr()  # its first row is token 1


def test_a_head_costs_two_short_passes() -> None:
    model = wrapped("llama", "lora")
    seen: list[int] = []
    model.get_output_embeddings().register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].numel())
    )
    LevelHead(model, NEIGHBOURS)
    assert sum(seen) <= len(NEIGHBOURS) * 24  # a probe by unit vectors would be 24 rows


def test_bfloat16_rows_follow_the_weights() -> None:
    model = make_model("qwen3").to(torch.bfloat16)
    head = LevelHead(model, SCATTERED)
    assert head.restricted
    assert head.dtype == torch.bfloat16
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(-1)
    assert_logits(head, model, SCATTERED, exact=0.05)


@pytest.mark.parametrize("name", ["qwen3", "phi", "gemma2", "granite"])
@pytest.mark.parametrize(("tokens", "in_cache", "per_chunk"), [(7, 1, 14), (1, 300, 10_000)])
def test_the_vocabulary_is_summed_in_parts(
    monkeypatch: pytest.MonkeyPatch, name: str, tokens: int, in_cache: int, per_chunk: int
) -> None:
    model, (trie, _) = make_model(name, "eager"), make_trie()
    if model.lm_head.bias is not None:
        torch.nn.init.normal_(model.lm_head.bias)
    monkeypatch.setattr(head_module, "_LEAST_TOKENS", tokens)
    monkeypatch.setattr(head_module, "_LOGITS_IN_CACHE", in_cache)
    monkeypatch.setattr(head_module, "_LOGITS_PER_CHUNK", per_chunk)
    head = LevelHead(model, trie.level_token_ids)
    ids = torch.randint(VOCAB, (2, 5))
    with torch.no_grad():
        states_BTX = head.states(input_ids=ids)
        found = head.log_normalizer(states_BTX, head.logits(states_BTX, 0), "full")
        logits_BTV = model(input_ids=ids).logits
    torch.testing.assert_close(found, logits_BTV.logsumexp(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_probability_is_above_one(dtype: torch.dtype) -> None:
    """Logits of a bf16 matrix product are rounded by more than a sure code's log-probability."""
    model = make_model("qwen3").to(dtype)
    head = LevelHead(model, SCATTERED)
    with torch.no_grad():
        direction = model.get_output_embeddings().weight[SCATTERED[0][0]].float()
        states = (direction * torch.linspace(1, 40, 200).unsqueeze(1)).to(dtype)
        logits = head.logits(states, 0)
        log_p = logits - head.log_normalizer(states, logits, "full").unsqueeze(-1)
    assert log_p.max() > -0.01  # some code is sure
    assert float(log_p.max()) <= 1e-4
    assert float(log_p.logsumexp(-1).max()) <= 1e-4
