"""A step with trained token rows in a large vocabulary: ours, peft's, and a whole embedding."""

import copy
import statistics
import time
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from dasrec.generative.model.split_tokens import split_token_rows

VOCABULARY, WIDTH, ROWS, TOKENS = 152_000, 256, 1_024, 256


def model_with_rows(tied: bool, whole: bool) -> Any:
    """A small Qwen3 with LoRA; the last rows trained, or the whole embedding."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen3", vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=3 * WIDTH,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
        tie_word_embeddings=tied, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    new = list(range(VOCABULARY - ROWS, VOCABULARY))
    sides = ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]
    options: dict[str, Any] = (
        {"modules_to_save": sides, "ensure_weight_tying": tied}
        if whole
        else {"trainable_token_indices": new if tied else dict.fromkeys(sides, new)}
    )
    base = AutoModelForCausalLM.from_config(config)
    return get_peft_model(base, LoraConfig(r=8, target_modules="all-linear", **options))


def step(model: Any, ids: torch.Tensor) -> tuple[float, list[torch.Tensor]]:
    """Forward and back with transformers' own loss over the whole vocabulary."""
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return float(loss.detach()), gradients


def token_rows(tied: bool, runs: int) -> list[dict[str, Any]]:
    """Seconds of a step, in turns; ours against each peer."""
    contenders = {"peft": model_with_rows(tied, whole=False)}
    contenders["ours"] = copy.deepcopy(contenders["peft"])
    split_token_rows(contenders["ours"])
    contenders["whole embedding"] = model_with_rows(tied, whole=True)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY - ROWS, VOCABULARY, (4, TOKENS // 4), generator=generator)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    found = {name: step(model, ids) for name, model in contenders.items()}  # and warms up
    for _ in range(runs):
        for name, model in contenders.items():
            began = time.perf_counter()
            step(model, ids)
            seconds[name].append(time.perf_counter() - began)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    equal = abs(found["ours"][0] - found["peft"][0]) < 1e-5 and all(
        torch.allclose(ours, peft, rtol=1e-4, atol=1e-6)
        for ours, peft in zip(found["ours"][1], found["peft"][1], strict=True)
    )
    same = {
        "peft": equal,
        "whole embedding": abs(found["ours"][0] - found["whole embedding"][0]) < 1e-5,
    }
    case = {"vocabulary": VOCABULARY, "width": WIDTH, "trained_rows": ROWS, "tokens": TOKENS}
    return [
        {
            "case": {"what": "a LoRA step with trained token rows", "tied": tied, **case},
            "ours": {"seconds": round(median["ours"], 4)},
            "peer": {"name": name, "seconds": round(median[name], 4)},
            "ratio": round(median[name] / median["ours"], 2),
            "same_result": same[name],
            "compared": "loss and all gradients" if name == "peft" else "loss (other rows train)",
        }
        for name in ("peft", "whole embedding")
    ]
