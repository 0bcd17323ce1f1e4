"""What some families do to the logits of their output layer."""

from typing import Any

import torch
from torch import Tensor


def rescale(logits: Tensor, config: Any) -> Tensor:
    """Soft-capping (Gemma 2) and scaling (Granite, Cohere), as the text config asks for.

    `dasrec.generative.model.check` refuses a family that does anything else.
    """
    if cap := getattr(config, "final_logit_softcapping", None):
        logits = cap * torch.tanh(logits / cap)
    if divisor := getattr(config, "logits_scaling", None):
        logits = logits / divisor
    if factor := getattr(config, "logit_scale", None):
        logits = logits * factor
    return logits
