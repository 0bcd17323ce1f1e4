"""Next-token loss that computes logits only where they are needed.

A SID target of level l is classified among the K codes of that level (the normaliser `level` of
the beam search), a text target among the whole vocabulary. So the cost of a SID target does not
grow with the vocabulary, and training and decoding maximise the same probability.

Shape letters: B sequences, T positions, H hidden width, V vocabulary, K codes of a level,
N targets.
"""

from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from peft.utils.other import TrainableTokensWrapper
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dasrec.generative.data.tokens import IGNORE
from dasrec.generative.model.logits import rescale
from dasrec.generative.model.split_tokens import SplitTokensLayer
from dasrec.generative.model.vocabulary import SidVocabulary

TEXT_LOGITS = 2**26
"""Logits of text targets that are held at a time: a quarter of a GiB in float32."""

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
        self.item_tokens = torch.tensor([t for ids in vocabulary.item_levels for t in ids])
        ends = list(accumulate(map(len, vocabulary.item_levels), initial=0))
        self.spans = [slice(*ends_of) for ends_of in pairwise(ends)]
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
        items = OutputRows(output, self.item_tokens.to(labels_N.device))
        for level in torch.unique(level_N).tolist():
            at = level_N == level
            if level == TEXT:
                total = total + self._text(output, config, hidden_NH[at], labels_N[at])
            else:
                logits = items.logits(hidden_NH[at], self.spans[level])
                target = self.code_of_token.to(labels_N.device)[labels_N[at]]
                total = total + self._cross_entropy(logits, target, config)
        return LossSum(total, len(labels_N))

    def _text(self, output: Any, config: Any, hidden_NH: Tensor, target_N: Tensor) -> Tensor:
        """Over the vocabulary, in parts whose logits are made again on the way back."""

        def part(hidden: Tensor, target: Tensor) -> Tensor:
            return self._cross_entropy(output(hidden.to(_dtype(output))), target, config)

        rows = max(1, TEXT_LOGITS // config.vocab_size)
        if len(target_N) <= rows:
            return part(hidden_NH, target_N)
        parts = zip(torch.split(hidden_NH, rows), torch.split(target_N, rows), strict=True)
        losses = [checkpoint(part, *pair, use_reentrant=False) for pair in parts]
        return torch.stack(losses).sum()

    def _cross_entropy(self, logits: Tensor, target: Tensor, config: Any) -> Tensor:
        return F.cross_entropy(
            rescale(logits.float(), config),
            target,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )


class OutputRows:
    """The output layer cut down to some tokens, differentiable in the rows that are trained.

    The rows are taken once for all levels: on a trained matrix each taking costs a gradient of
    the size of the whole matrix.
    """

    def __init__(self, output: Any, tokens: Tensor) -> None:
        self.output, self.tokens = output, tokens
        self.weight: Tensor | None = None
        self.bias = getattr(getattr(output, "original_module", output), "bias", None)
        if isinstance(output, TrainableTokensWrapper) and len(output.active_adapters) == 1:
            layer = output.token_adapter
            on = isinstance(layer, SplitTokensLayer) and not (
                layer.disable_adapters or layer.merged
            )
            if on and bool((layer.rows_of(tokens) >= 0).all()):
                (name,) = layer.active_adapters
                self.weight = layer.trainable_tokens_delta[name][layer.rows_of(tokens)]
        elif type(output) is nn.Linear:
            self.weight = output.weight[tokens]

    def logits(self, hidden_NH: Tensor, span: slice) -> Tensor:
        """(N, K) logits of the tokens at `span`; an output layer of another kind is run in full."""
        if self.weight is None:
            logits: Tensor = self.output(hidden_NH.to(_dtype(self.output)))[:, self.tokens[span]]
            return logits
        weight = self.weight[span]
        bias = None if self.bias is None else self.bias[self.tokens[span]].to(weight.dtype)
        return F.linear(hidden_NH.to(weight.dtype), weight, bias)  # peft keeps rows in float32


def _dtype(output: Any) -> torch.dtype:
    """Type of an output layer's weights; peft's wrapper copies the matrix when asked for it."""
    dtype: torch.dtype = getattr(output, "original_module", output).weight.dtype
    return dtype
