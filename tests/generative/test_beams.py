"""Every way of running the beams gives the states of plain passes over prompt and path."""

from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from tests.generative.test_search import COMMON, CONFIGS, VOCAB, make_model, make_prompts, make_trie
from torch import Tensor
from transformers import AutoModelForCausalLM

from dasrec.generative.decoding.beams import Beams, CacheKind, Mode, start_beams
from dasrec.generative.decoding.head import LevelHead
from dasrec.generative.decoding.prefix_cache import PromptPrefix

WAYS: list[tuple[Mode, CacheKind]] = [
    ("tree", "dynamic"),
    ("tree", "static"),
    ("expand", "dynamic"),
]
WIDTHS = (4, 6, 5)
PREFIX = [7, 3, 41, 9]
PLAIN = {k: v for k, v in COMMON.items() if k not in ("head_dim", "num_key_value_heads")}
OPT = {"ffn_dim": 32, "word_embed_proj_dim": 24}
MORE: dict[str, dict[str, Any]] = {
    "gpt_neox": PLAIN,
    "opt": PLAIN | OPT,
    "qwen2": COMMON,
    "phi3": COMMON,
    "smollm3": COMMON | {"no_rope_layers": [1, 0]},
    "cohere2": COMMON
    | {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt_oss": COMMON | {"sliding_window": 5, "num_local_experts": 2, "num_experts_per_tok": 1},
}
FAMILIES = ["gpt2", "llama", "qwen3", "mistral", "gemma2", "gemma3", "phi", "granite", *MORE]


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


CARRY: dict[str, dict[str, Any]] = {
    "qwen3_next": COMMON
    | {
        "layer_types": ["linear_attention", "full_attention"],
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "mlp_only_layers": [0, 1],
    },
    "lfm2": COMMON | {"layer_types": ["conv", "full_attention"]},
}
"""Layers that carry a state from token to token."""


def make(name: str, attention: str = "sdpa") -> Any:
    torch.manual_seed(0)
    attention = "eager" if name in ("gemma2", "gpt_oss") else attention
    if name in CONFIGS:
        return make_model(name, attention)
    config = transformers.AutoConfig.for_model(name, **(MORE | CARRY)[name])
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


class Steps:
    """Random beams: tokens, parents and which are live; a dead beam's children are dead."""

    def __init__(self, batch: int = 3, dead: float = 0.4) -> None:
        self.tokens, self.parents, self.live = [], [], []
        alive, width = torch.ones(batch, 1, dtype=torch.bool), 1
        for next_width in WIDTHS:
            parent = torch.randint(width, (batch, next_width))
            alive = alive.gather(1, parent) & (torch.rand(batch, next_width) > dead)
            self.tokens.append(torch.randint(1, VOCAB, (batch, next_width)))
            self.parents.append(parent)
            self.live.append(alive)
            width = next_width

    def paths(self, step: int) -> Tensor:
        """(B, W, step + 1) tokens of each beam."""
        path = self.tokens[0].unsqueeze(-1)
        for token, parent in zip(self.tokens[1 : step + 1], self.parents[1:], strict=False):
            before = path.gather(1, parent.unsqueeze(-1).expand(-1, -1, path.shape[-1]))
            path = torch.cat([before, token.unsqueeze(-1)], -1)
        return path


@torch.no_grad()
def plain(model: Any, ids: Tensor, mask: Tensor, path_BWS: Tensor, prefix: list[int]) -> Tensor:
    """(B, W, X) last hidden states by unpadded passes without a cache."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    rows = []
    for row, real, paths in zip(ids, mask.bool(), path_BWS, strict=True):
        start = torch.cat([torch.tensor(prefix, dtype=torch.int64), row[real]])
        full = torch.cat([start.expand(len(paths), -1), paths], 1)
        rows.append(base.get_decoder()(input_ids=full, use_cache=False).last_hidden_state[:, -1])
    return torch.stack(rows)


@torch.no_grad()
def check(
    model: Any, beams: Beams, steps: Steps, prompts: tuple[Tensor, Tensor], **options: Any
) -> None:
    """Compare the states of every step, of live beams only where `live` is asked for."""
    live, atol, prefix = (
        options.get(k, d) for k, d in (("live", 0), ("atol", 1e-4), ("prefix", []))
    )
    no_path = torch.zeros(len(prompts[0]), 1, 0, dtype=torch.int64)
    torch.testing.assert_close(
        beams.prefill(), plain(model, *prompts, no_path, prefix), atol=atol, rtol=0
    )
    for step, (token, parent) in enumerate(zip(steps.tokens, steps.parents, strict=True)):
        alive = steps.live[step] if live else torch.ones_like(token, dtype=torch.bool)
        states = beams.advance(token, parent, alive if live else None)
        expected = plain(model, *prompts, steps.paths(step), prefix)
        torch.testing.assert_close(states[alive], expected[alive], atol=atol, rtol=0)


@pytest.mark.parametrize("live", [False, True], ids=["all", "live"])
@pytest.mark.parametrize(("mode", "cache"), WAYS)
@pytest.mark.parametrize("name", FAMILIES)
def test_states_are_those_of_plain_passes(
    name: str, mode: Mode, cache: CacheKind, live: bool
) -> None:
    model, prompts, steps = make(name), make_prompts(), Steps()
    head = LevelHead(model, make_trie()[0].level_token_ids)
    beams = start_beams(head, *prompts, mode, cache=cache, num_slots=sum(WIDTHS))
    check(model, beams, steps, prompts, live=live)


@pytest.mark.parametrize("live", [False, True], ids=["all", "live"])
@pytest.mark.parametrize("name", CARRY)
def test_models_that_take_no_tree(name: str, live: bool) -> None:
    model, prompts, steps = make(name), make_prompts(), Steps()
    head = LevelHead(model, make_trie()[0].level_token_ids)
    beams = start_beams(head, *prompts, "auto")
    assert type(beams).__name__ == "ExpandBeams"
    check(model, beams, steps, prompts, live=live)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize(
    ("name", "attention"),
    [*((name, "sdpa") for name in FAMILIES), ("llama", "eager"), ("gemma3", "eager")],
)
def test_a_prefix_is_as_if_written_out(name: str, attention: str, cache: CacheKind) -> None:
    model, prompts, steps = make(name, attention), make_prompts(), Steps()
    head = LevelHead(model, make_trie()[0].level_token_ids)
    prefix = PromptPrefix(model, PREFIX)
    for live in (False, True):  # a prefix serves many batches
        beams = start_beams(
            head, *prompts, "tree", cache=cache, num_slots=sum(WIDTHS), prefix=prefix
        )
        check(model, beams, steps, prompts, live=live, prefix=PREFIX)


@pytest.mark.parametrize("window", [1, 2, 6])
def test_a_prefix_beyond_the_window(window: int) -> None:
    config = CONFIGS["gemma3"]()
    config.sliding_window = window
    model, prompts, steps = AutoModelForCausalLM.from_config(config).eval(), make_prompts(), Steps()
    head = LevelHead(model, make_trie()[0].level_token_ids)
    beams = start_beams(head, *prompts, "tree", prefix=PromptPrefix(model, PREFIX))
    check(model, beams, steps, prompts, prefix=PREFIX)


@pytest.mark.parametrize(("mode", "cache"), WAYS)
def test_bfloat16(mode: Mode, cache: CacheKind) -> None:
    model = make("qwen3")
    prompts, steps = make_prompts(), Steps()
    half = make("qwen3").to(torch.bfloat16)
    head = LevelHead(half, make_trie()[0].level_token_ids)
    prefix = PromptPrefix(half, PREFIX) if mode == "tree" else None
    beams = start_beams(head, *prompts, mode, cache=cache, num_slots=99, prefix=prefix)
    scale = plain(model, *prompts, steps.paths(0), []).abs().max()
    tokens = PREFIX if prefix else []
    check(half, beams, steps, prompts, atol=0.05 * float(scale), prefix=tokens)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_a_prefix_belongs_to_its_weights() -> None:
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model: Any = get_peft_model(make("llama"), lora).eval()
    prompts, steps = make_prompts(), Steps()
    head = LevelHead(model, make_trie()[0].level_token_ids)

    def start(prefix: PromptPrefix) -> Beams:
        return start_beams(head, *prompts, "tree", prefix=prefix)

    prefix = PromptPrefix(model, PREFIX)
    check(model, start(prefix), steps, prompts, prefix=PREFIX)
    message = "prefix: computed by another model, or before its weights"
    with model.disable_adapter(), pytest.raises(ValueError, match=message):
        start(prefix)
    start(prefix)
    model.merge_adapter()
    with pytest.raises(ValueError, match=message):
        start(prefix)
    merged = PromptPrefix(model, PREFIX)
    check(model, start(merged), steps, prompts, prefix=PREFIX)
    with torch.no_grad():  # a training step
        model.get_input_embeddings().weight.mul_(1.01)
    with pytest.raises(ValueError, match=message):
        start(merged)
    with pytest.raises(ValueError, match=message):
        start(PromptPrefix(make("llama"), PREFIX))


def test_what_only_a_tree_can() -> None:
    model, prompts = make("qwen3"), make_prompts()
    head = LevelHead(model, make_trie()[0].level_token_ids)
    with pytest.raises(ValueError, match="cache: 'static': needs mode 'tree'; leave"):
        start_beams(head, *prompts, "expand", cache="static")
    with pytest.raises(ValueError, match="prefix: needs mode 'tree', not this model; write"):
        start_beams(head, *prompts, "expand", prefix=PromptPrefix(model, PREFIX))
    for wrong in ([], [[1, 2]]):
        with pytest.raises(ValueError, match="token_ids: at least one token needed, got"):
            PromptPrefix(model, torch.tensor(wrong))
    with pytest.raises(ValueError, match=r"dropout is on .*model.eval"):
        PromptPrefix(model.train(), PREFIX)


@pytest.mark.parametrize(("mode", "cache"), WAYS)
def test_only_live_beams_are_run(mode: Mode, cache: CacheKind) -> None:
    model, prompts = make("llama"), make_prompts()
    head = LevelHead(model, make_trie()[0].level_token_ids)
    beams = start_beams(head, *prompts, mode, cache=cache, num_slots=9)
    seen: list[int] = []
    model.get_input_embeddings().register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].numel())
    )
    with torch.no_grad():
        beams.prefill()
        token, parent = torch.full((3, 4), 5), torch.zeros(3, 4, dtype=torch.int64)
        live = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]]).bool()
        states = beams.advance(token, parent, live)
        assert states.shape == (3, 4, 24)
        assert (states[:2, 0] == 0).all()  # the last user's fill up the rectangle
        parent = torch.tensor([[3] * 4, [2] * 4, [0] * 4])
        assert (beams.advance(token, parent, torch.zeros_like(live)) == 0).all()
    assert seen == [prompts[0].numel(), 3 * 2]


def test_a_static_cache_stays_where_it_is() -> None:
    model, prompts, steps = make("qwen3"), make_prompts(), Steps()
    head = LevelHead(model, make_trie()[0].level_token_ids)
    beams: Any = start_beams(head, *prompts, "tree", cache="static", num_slots=sum(WIDTHS))
    with torch.no_grad():
        beams.prefill()
        places = [layer.keys.data_ptr() for layer in beams._cache.layers]
        for token, parent in zip(steps.tokens, steps.parents, strict=True):
            beams.advance(token, parent)
    assert [layer.keys.data_ptr() for layer in beams._cache.layers] == places
    assert {layer.num_used for layer in beams._cache.layers} == {9 + sum(WIDTHS)}


SLOTS: dict[str, dict[str, Any]] = {
    "gpt_neo": {
        "hidden_size": 24,
        "num_heads": 4,
        "num_layers": 2,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 5,
    },
    "mpt": {"d_model": 24, "n_heads": 4, "n_layers": 2},
    "bloom": {"hidden_size": 24, "n_head": 4, "n_layer": 2},
}
"""Attention that counts a token's distance in places of the cache, not in positions."""


@pytest.mark.parametrize("name", SLOTS)
def test_distances_counted_in_places_take_no_tree(name: str) -> None:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, vocab_size=VOCAB, **SLOTS[name])
    model, prompts, steps = AutoModelForCausalLM.from_config(config).eval(), make_prompts(), Steps()
    head = LevelHead(model, make_trie()[0].level_token_ids)
    beams = start_beams(head, *prompts, "auto")
    assert type(beams).__name__ == "ExpandBeams"
    check(model, beams, steps, prompts)
    with pytest.raises(ValueError, match="mode: 'tree' needs a model that takes"):
        start_beams(head, *prompts, "tree")


@pytest.mark.parametrize("name", ["rwkv", "mamba2"])
def test_models_without_keys_and_values_are_refused(name: str) -> None:
    options = {"num_heads": 6, "head_dim": 8, "n_groups": 1} if name == "mamba2" else {}
    config = transformers.AutoConfig.for_model(
        name, vocab_size=VOCAB, hidden_size=24, num_hidden_layers=2, **options
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(ValueError, match="its decoder takes no past_key_values"):
        LevelHead(model, make_trie()[0].level_token_ids)
