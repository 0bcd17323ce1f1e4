import threading
from typing import Any

import pytest
import torch
from tests.generative.test_search import CONFIGS, make_model, make_prompts, make_trie
from torch import Tensor, nn

from dasrec.generative.decoding.head import LevelHead
from dasrec.generative.decoding.last_position import LastPosition

SHORTENED = {"llama", "qwen3", "mistral", "gemma2", "gemma3", "granite"}


def last_layer_inputs(model: Any) -> tuple[list[tuple[int, ...]], Any]:
    """The shapes that the last layer's MLP gets, and the handle that records them."""
    shapes: list[tuple[int, ...]] = []
    layers = model.get_decoder().layers

    def note(module: nn.Module, args: Any, output: Any) -> None:
        shapes.append(tuple(args[0].shape))

    return shapes, layers[-1].mlp.register_forward_hook(note)


@pytest.mark.parametrize("name", CONFIGS)
def test_prompts_end_in_the_same_state(name: str) -> None:
    model, (trie, _) = make_model(name, "eager"), make_trie()
    ids, mask = make_prompts()
    head = LevelHead(model, trie.level_token_ids)
    assert bool(head._last) == (name in SHORTENED)
    assert head.restricted
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    with torch.no_grad():
        whole: Tensor = model.get_decoder()(**inputs).last_hidden_state
        last = head.states(last_only=True, **inputs)
        everything = head.states(**inputs)
    torch.testing.assert_close(last, whole[:, -1:], rtol=1e-4, atol=1e-5)
    assert torch.equal(everything, whole)


def test_the_last_layer_sees_one_position() -> None:
    model, (trie, _) = make_model("qwen3"), make_trie()
    ids, mask = make_prompts()
    head = LevelHead(model, trie.level_token_ids)
    shapes, handle = last_layer_inputs(model)
    head.states(last_only=True, input_ids=ids, attention_mask=mask)
    head.states(input_ids=ids, attention_mask=mask)
    handle.remove()
    assert [shape[1] for shape in shapes] == [1, ids.shape[1]]


def test_other_threads_see_all_positions() -> None:
    model = make_model("qwen3")
    ids, mask = make_prompts()
    body = model.get_decoder()
    found = []

    def run() -> None:
        with torch.no_grad():
            found.append(body(input_ids=ids, attention_mask=mask).last_hidden_state)

    run()
    with LastPosition(body).only():
        other = threading.Thread(target=run)
        other.start()
        other.join()
        hooks = list(body.layers[-1].mlp._forward_pre_hooks.values())
    assert torch.equal(found[0], found[1])

    def call_late() -> None:  # torch has read the hooks, then this thread's were removed
        found.extend(hook(body.layers[-1].mlp, (found[0],)) for hook in hooks)

    late = threading.Thread(target=call_late)
    late.start()
    late.join()
    assert found[2:] == [None]


def test_a_layer_that_does_more_is_run_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (trie, _) = make_model("qwen3"), make_trie()
    ids, mask = make_prompts()
    last = model.get_decoder().layers[-1]
    forward = last.mlp.forward

    def shifted(hidden: Tensor) -> Tensor:  # a position's output depends on the others
        return forward(hidden) + hidden.cumsum(1)  # type: ignore[no-any-return]

    monkeypatch.setattr(last.mlp, "forward", shifted)
    head = LevelHead(model, trie.level_token_ids)
    assert not head._last
    assert head.restricted
    with torch.no_grad():
        whole = model.get_decoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        last_state = head.states(last_only=True, input_ids=ids, attention_mask=mask)
    torch.testing.assert_close(last_state, whole[:, -1:])


def test_nothing_stays_behind() -> None:
    model, (trie, _) = make_model("llama"), make_trie()
    LevelHead(model, trie.level_token_ids)
    assert not any(module._forward_pre_hooks for module in model.modules())
