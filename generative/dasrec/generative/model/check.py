"""Whether a causal LM does what training and search take for granted.

Families differ in caches, positions, masks and output transformations; a model that answers these
trials is handled rightly whatever its family, and any other is refused before it costs anything.
"""

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dasrec.generative.decoding.search import constrained_beam_search
from dasrec.generative.decoding.trie import SidTrie
from dasrec.generative.model.logits import rescale
from dasrec.generative.model.vocabulary import SidVocabulary


@torch.no_grad()
def check_decoder(model: Any, vocabulary: SidVocabulary) -> None:
    """Try the model on a few items' tokens.

    Raises:
        ValueError: the model keeps no key-value cache by position, reads ahead, its logits are not
            those of its last hidden states, or a search does not give its probabilities.
    """
    takes = inspect.signature(model.get_decoder().forward).parameters
    if lacks := sorted({"attention_mask", "position_ids", "past_key_values"} - set(takes)):
        raise ValueError(
            f"{type(model).__name__}: its decoder takes no {', '.join(lacks)}, without which a "
            "search cannot share prompts between beams; take a transformer with a key-value cache"
        )
    was_training = model.training
    model.eval()
    _check_training(model, vocabulary)
    _check_search(model, vocabulary)
    model.train(was_training)


def _check_training(model: Any, vocabulary: SidVocabulary) -> None:
    """Logits depend on the past alone, and are those of the last hidden states."""
    ids = _items(vocabulary, model).reshape(1, -1)
    changed = ids.clone()
    changed[0, -1] = vocabulary.control["<|item|>"]
    outputs = model(input_ids=ids, output_hidden_states=True, use_cache=False)
    others = model(input_ids=changed, use_cache=False).logits
    if not _close(model, outputs.logits[:, :-1], others[:, :-1]):
        raise ValueError(
            f"{type(model).__name__}: reads ahead of the position it predicts; take a causal LM"
        )
    states = outputs.hidden_states[-1]
    logits = rescale(model.get_output_embeddings()(states).float(), model.config.get_text_config())
    if not _close(model, outputs.logits, logits):
        raise ValueError(
            f"{type(model).__name__}: transforms its hidden states or logits in a way that the "
            "loss does not know; take a model of another family"
        )


def _check_search(model: Any, vocabulary: SidVocabulary) -> None:
    """Search from prompts of unequal length gives what plain passes over each item give."""
    items_2L = _items(vocabulary, model)
    sizes = tuple(map(len, vocabulary.item_levels))
    codes_2L = np.array([[0] * len(sizes), [size - 1 for size in sizes]])
    trie = SidTrie.from_sids(codes_2L, sizes, [np.array(ids) for ids in vocabulary.item_levels])
    start_21 = torch.full_like(items_2L[:, :1], vocabulary.control["<|anonymous|>"])
    prompts = torch.cat([start_21, items_2L], 1)
    real = torch.ones_like(prompts)
    prompts[0, -1], real[0, :-1] = start_21[0, 0], 0  # the first prompt is one token long
    found = constrained_beam_search(
        model, prompts, real, trie, num_beams=2, num_items=2, certify=False
    )
    for row, length in enumerate(real.sum(1).tolist()):
        prompt = prompts[row, -length:].expand(2, -1)
        logits = model(input_ids=torch.cat([prompt, items_2L], 1), use_cache=False).logits.float()
        expected_2 = sum(
            logits[:, length - 1 + level, list(ids)].log_softmax(-1)[[0, 1], codes_2L[:, level]]
            for level, ids in enumerate(vocabulary.item_levels)
        )
        if not _close(model, expected_2[found.items[row]], found.scores[row].to(logits.device)):
            raise ValueError(
                f"{type(model).__name__}: a search with its key-value cache does not give the "
                "probabilities of a plain pass; take a model of another family"
            )


def _items(vocabulary: SidVocabulary, model: Any) -> Tensor:
    """(2, L) tokens of the first and of the last code of every level."""
    ends = [[level[0] for level in vocabulary.item_levels]]
    ends += [[level[-1] for level in vocabulary.item_levels]]
    return torch.tensor(ends, device=model.get_input_embeddings().weight.device)


def _close(model: Any, left: Tensor, right: Tensor) -> bool:
    tolerance = max(16 * torch.finfo(model.dtype).eps, 1e-5)
    scale = float(left.abs().max())
    return torch.allclose(left.float(), right.float(), rtol=tolerance, atol=tolerance * scale)
