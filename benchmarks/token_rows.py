"""A step with trained token rows in a large vocabulary: ours, peft's, and a whole embedding."""

import copy
import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from dasrec.generative.model.packed_attention import last_hidden
from dasrec.generative.model.split_tokens import split_token_rows
from dasrec.generative.model.vocabulary import SidVocabulary
from dasrec.generative.training.loss import SidLoss

VOCABULARY, WIDTH, ROWS, LEVELS, TOKENS = 152_000, 256, 1_024, 4, 256


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


def level_step(model: Any, ids: torch.Tensor) -> float:
    """Forward and back with our loss: each token among the codes of its level."""
    first, codes = VOCABULARY - ROWS, ROWS // LEVELS
    levels = tuple(
        tuple(range(first + level * codes, first + (level + 1) * codes)) for level in range(LEVELS)
    )
    loss = SidLoss(SidVocabulary(levels, (), {}, ""))
    total, count = loss(model, last_hidden(model, {"input_ids": ids}), ids)
    (total / count).backward()
    model.zero_grad()
    return float(total.detach() / count)


@torch.no_grad()
def level_loss_by_hand(model: Any, ids: torch.Tensor) -> float:
    """The same loss from the logits of the whole vocabulary."""
    new = (ids[:, 1:] - (VOCABULARY - ROWS)).flatten()
    logits = model(input_ids=ids).logits[:, :-1, -ROWS:].flatten(0, 1)
    among = logits.view(-1, LEVELS, ROWS // LEVELS)[torch.arange(len(new)), new // (ROWS // LEVELS)]
    return float(F.cross_entropy(among, new % (ROWS // LEVELS)))


def token_rows(tied: bool, runs: int) -> list[dict[str, Any]]:
    """Seconds of a step, in turns; ours against each peer."""
    contenders = {"peft": model_with_rows(tied, whole=False)}
    contenders["ours"] = copy.deepcopy(contenders["peft"])
    split_token_rows(contenders["ours"])
    contenders["whole embedding"] = model_with_rows(tied, whole=True)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY - ROWS, VOCABULARY, (4, TOKENS // 4), generator=generator)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    seconds["level"] = []
    by_level = level_step(contenders["ours"], ids), level_loss_by_hand(contenders["peft"], ids)
    found = {name: step(model, ids) for name, model in contenders.items()}  # and warms up
    for _ in range(runs):
        for name, model in contenders.items():
            began = time.perf_counter()
            step(model, ids)
            seconds[name].append(time.perf_counter() - began)
        began = time.perf_counter()
        level_step(contenders["ours"], ids)
        seconds["level"].append(time.perf_counter() - began)
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
    rows = [
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
    rows.append(
        {
            "case": {"what": "the same step on item targets, with our loss", "tied": tied, **case},
            "ours": {"seconds": round(median["level"], 4)},
            "peer": {"name": "peft, loss over the vocabulary", "seconds": round(median["peft"], 4)},
            "ratio": round(median["peft"] / median["level"], 2),
            "same_result": abs(by_level[0] - by_level[1]) < 1e-4,
            "compared": "our loss with the same cut out of peft's logits",
        }
    )
    return rows
