"""One plain model out of a base model and its adapter, proven to compute the same.

Shape letters: B prompts, T tokens, V vocabulary.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference of a logit before and after merging, relative where logits exceed 1."""


@torch.no_grad()
def merge_adapter(model: Any, prompts_T: Sequence[Tensor]) -> tuple[Any, float]:
    """Fold the LoRA matrices and the trained token rows into the weights they belong to.

    The work is done in float32, whatever the base model's type: in bfloat16 the rounding of
    merged weights could not be told from a wrong merge.

    Args:
        model: what `load_generator` gives with full precision; used up where it has an adapter.
        prompts_T: token ids to compare the logits on, one prompt each.

    Returns:
        The plain model in float32, and the largest difference of a logit (0 without an adapter).

    Raises:
        ValueError: merging changed a logit.
    """
    model = model.float()
    if not isinstance(model, PeftModel):
        return model, 0.0
    before = [_logits(model, prompt_T) for prompt_T in prompts_T]
    merged: Any = model.merge_and_unload()
    largest = 0.0
    for prompt_T, expected_TV in zip(prompts_T, before, strict=True):
        scale = max(1.0, float(expected_TV.abs().max()))
        difference = float((_logits(merged, prompt_T) - expected_TV).abs().max()) / scale
        if not difference <= TOLERANCE:  # also true of nan
            raise ValueError(
                f"export: merging the adapter changed a logit by {difference:.2g} (at most "
                f"{TOLERANCE} is taken for rounding); nothing was written: check the versions of "
                "peft and transformers against constraints.txt"
            )
        largest = max(largest, difference)
    log.info("export: merged; largest difference of a logit %.2g", largest)
    return merged, largest


def _logits(model: Any, prompt_T: Tensor) -> Tensor:
    device = model.get_input_embeddings().weight.device
    logits: Tensor = model(input_ids=prompt_T[None].to(device), use_cache=False).logits[0]
    return logits


def check_saved(directory: Path, model: Any) -> None:
    """Refuse a saved model that does not load back to the same weights, bit by bit.

    Raises:
        ValueError: naming the weight.
    """
    loaded = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True, dtype="auto")
    found = loaded.state_dict()
    for name, expected in model.state_dict().items():
        if name not in found or not torch.equal(found[name], expected.cpu()):
            raise ValueError(
                f"export: weight '{name}' changed by saving and loading; nothing was written: "
                "check the versions of transformers and safetensors against constraints.txt"
            )
