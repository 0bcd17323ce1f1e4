"""Next-token loss that computes logits only where they are needed.

A SID target of level l is classified among the K codes of that level (the normaliser `level` of
the beam search), a text target among the whole vocabulary. So the cost of a SID target does not
grow with the vocabulary, and training and decoding maximise the same probability.

Shape letters: B sequences, T positions, H hidden width, V vocabulary, K codes of a level,
N targets.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from peft.utils.other import TrainableTokensWrapper
from torch import Tensor, nn

from dasrec.generative.data.sequences import IGNORE
from dasrec.generative.model.vocabulary import SidVocabulary

TEXT = -1
"""Level of a token that is not an item's code."""


class LossSum(NamedTuple):
    """Summed loss, so that gradient accumulation can divide by the total count."""

    total: Tensor
    """() sum of the targets' negative log-likelihoods, in nats."""
    num_targets: int
    """Targets summed over."""


class SidLoss:
    """Cross-entropy over the codes of a target's level, or over the vocabulary for text."""

    def __init__(self, vocabulary: SidVocabulary, label_smoothing: float = 0.0) -> None:
        """Prepare the look-up tables (V,) token -> level and code."""
        vocab_size = 1 + max(vocabulary.new_token_ids)
        self.level_of_token = torch.full((vocab_size,), TEXT, dtype=torch.int64)
        self.code_of_token = torch.zeros(vocab_size, dtype=torch.int64)
        for number, ids in enumerate(vocabulary.item_levels):
            self.level_of_token[list(ids)] = number
            self.code_of_token[list(ids)] = torch.arange(len(ids))
        self.levels = [torch.tensor(ids) for ids in vocabulary.item_levels]
        self.label_smoothing = label_smoothing

    def __call__(self, model: Any, hidden_BTH: Tensor, labels_BT: Tensor) -> LossSum:
        """Sum the loss of all labelled positions.

        Args:
            model: the (PEFT-wrapped) causal LM whose output layer scores `hidden_BTH`.
            hidden_BTH: last hidden states, after the final norm.
            labels_BT: token ids, `IGNORE` where there is no target; position t is predicted from
                the hidden state of t - 1.
        """
        hidden_BTH, labels_BT = hidden_BTH[:, :-1], labels_BT[:, 1:]
        kept = labels_BT != IGNORE
        hidden_NH, labels_N = hidden_BTH[kept], labels_BT[kept]
        level_N = self.level_of_token.to(labels_N.device)[labels_N]
        output, config = model.get_output_embeddings(), model.config.get_text_config()
        total = hidden_NH.new_zeros((), dtype=torch.float32)
        for level in torch.unique(level_N).tolist():
            at = level_N == level
            if level == TEXT:
                logits, target = output(hidden_NH[at].to(output.weight.dtype)), labels_N[at]
            else:
                logits = level_logits(output, hidden_NH[at], self.levels[level])
                target = self.code_of_token.to(labels_N.device)[labels_N[at]]
            total = total + F.cross_entropy(
                rescale(logits.float(), config),
                target,
                reduction="sum",
                label_smoothing=self.label_smoothing,
            )
        return LossSum(total, len(labels_N))


def level_logits(output: Any, hidden_NH: Tensor, tokens_K: Tensor) -> Tensor:
    """(N, K) logits of some tokens only, differentiable in the rows that are being trained.

    Reads the trained rows of peft's TrainableTokensWrapper directly: its own forward copies and
    back-propagates the whole (V, H) matrix. Any other wrapped head is run in full and sliced.
    """
    tokens_K = tokens_K.to(hidden_NH.device)
    if isinstance(output, TrainableTokensWrapper) and len(output.active_adapters) == 1:
        adapter = output.token_adapter
        (name,) = output.active_adapters
        trained = torch.tensor(adapter.token_indices[name], device=tokens_K.device)
        row_K = torch.searchsorted(trained, tokens_K)
        found = row_K < len(trained)
        if bool(found.all()) and bool((trained[row_K] == tokens_K).all()):
            weight = adapter.trainable_tokens_delta[name][row_K]
            return F.linear(hidden_NH.to(weight.dtype), weight)  # peft keeps the rows in float32
    if type(output) is nn.Linear:
        bias = None if output.bias is None else output.bias[tokens_K]
        return F.linear(hidden_NH.to(output.weight.dtype), output.weight[tokens_K], bias)
    logits: Tensor = output(hidden_NH.to(output.weight.dtype))[:, tokens_K]
    return logits


def rescale(logits: Tensor, config: Any) -> Tensor:
    """What some families do to their logits: soft-capping (Gemma 2), scaling (Granite, Cohere)."""
    if cap := getattr(config, "final_logit_softcapping", None):
        logits = cap * torch.tanh(logits / cap)
    if divisor := getattr(config, "logits_scaling", None):
        logits = logits / divisor
    if factor := getattr(config, "logit_scale", None):
        logits = logits * factor
    return logits
