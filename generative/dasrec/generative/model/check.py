"""Whether a causal LM does what training and search take for granted."""

import inspect
from typing import Any

import torch
from torch import Tensor

from dasrec.generative.model.vocabulary import SidVocabulary
from dasrec.generative.training.loss import rescale


@torch.no_grad()
def check_decoder(model: Any, vocabulary: SidVocabulary) -> None:
    """Try the model on one item's tokens.

    Raises:
        ValueError: the model keeps no key-value cache by position, reads ahead, or its logits are
            not those of its last hidden states.
    """
    name = type(model).__name__
    takes = inspect.signature(model.get_decoder().forward).parameters
    if lacks := sorted({"attention_mask", "position_ids", "past_key_values"} - set(takes)):
        raise ValueError(
            f"{name}: its decoder takes no {', '.join(lacks)}, without which a search cannot share "
            "prompts between beams; take a transformer with a key-value cache"
        )
    was_training = model.training
    model.eval()
    device = model.get_input_embeddings().weight.device
    ids = torch.tensor([[level[0] for level in vocabulary.item_levels]], device=device)
    ids = torch.cat([ids, ids], 1)
    changed = ids.clone()
    changed[0, -1] = vocabulary.control["<|item|>"]
    outputs = model(input_ids=ids, output_hidden_states=True, use_cache=False)
    others = model(input_ids=changed, use_cache=False).logits
    if not _close(outputs.logits[:, :-1], others[:, :-1]):
        raise ValueError(f"{name}: reads ahead of the position it predicts; take a causal LM")
    states = outputs.hidden_states[-1]
    logits = rescale(model.get_output_embeddings()(states).float(), model.config.get_text_config())
    if not _close(outputs.logits, logits):
        raise ValueError(
            f"{name}: transforms its hidden states or logits in a way that the loss does not know; "
            "take a model of another family"
        )
    model.train(was_training)


def _close(left: Tensor, right: Tensor) -> bool:
    tolerance = max(2 * torch.finfo(left.dtype).eps, 1e-4)
    scale = float(left.abs().max())
    return torch.allclose(left.float(), right.float(), rtol=tolerance, atol=tolerance * scale)
