"""The rows of an output layer that belong to some tokens, read from the weights at each use.

What is read follows the weights: views where the tokens are neighbours, else a gather of K rows.
peft's wrappers are read by their parts, since a probe of one costs a product with the whole matrix.

Shape letters: K tokens, V vocabulary, H hidden width.
"""

from typing import Any, NamedTuple

import torch
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import Tensor, nn

from dasrec.generative.model.split_tokens import SplitTokensLayer


class Rows(NamedTuple):
    """A linear layer with one output per token."""

    weight: Tensor
    """(K, H)"""
    bias: Tensor | None
    """(K,)"""


class TokenRows:
    """Reads the rows of some tokens from an output layer, plain or wrapped by peft."""

    def __init__(self, tokens: Tensor) -> None:
        """(K,) token ids, on the device of the weights."""
        self.tokens = tokens
        self._tokens = _as_slice(tokens)
        self._trained: dict[tuple[int, ...], tuple[Tensor | slice, Tensor | slice]] = {}

    def of(self, output: Any) -> Rows | None:
        """The rows as `output` computes with them now, or None where it is not known how."""
        if type(output) is nn.Linear:
            return self._plain(output)
        if isinstance(output, ModulesToSaveWrapper):
            on = not output.disable_adapters and output.active_adapters
            return self.of(
                output.modules_to_save[output.active_adapters[0]] if on else output.original_module
            )
        if isinstance(output, TrainableTokensWrapper):
            return self._trainable(output.token_adapter)
        if type(output) is LoraLinear:
            return self._lora(output)
        return None

    def _plain(self, linear: nn.Linear) -> Rows:
        bias = linear.bias
        return Rows(linear.weight[self._tokens], None if bias is None else bias[self._tokens])

    def _trainable(self, layer: TrainableTokensLayer) -> Rows | None:
        """A matrix some of whose rows are trained apart."""
        rows = self.of(layer.base_layer)
        if rows is None or layer.disable_adapters or layer.merged or not layer.active_adapters:
            return rows
        if not isinstance(layer, SplitTokensLayer):
            rows = Rows(rows.weight, None)  # peft's own pass leaves the bias out
        weight = rows.weight
        for name in layer.active_adapters:
            trained = layer.trainable_tokens_delta[name]
            here, there = self._places(tuple(layer.token_indices[name]))
            if isinstance(here, slice) and here == slice(0, len(self.tokens)):
                weight = trained[there]
            elif isinstance(here, slice) or len(here):
                weight = weight.to(trained.dtype, copy=True)
                weight[here] = trained[there]
        return Rows(weight, rows.bias)

    def _places(self, trained: tuple[int, ...]) -> tuple[Tensor | slice, Tensor | slice]:
        """Which of the tokens are trained, and their rows in the trained part."""
        if trained not in self._trained:
            row_of = {token: row for row, token in enumerate(trained)}
            tokens = enumerate(self.tokens.tolist())
            pairs = [(place, row_of[token]) for place, token in tokens if token in row_of]
            here, there = (
                torch.tensor(pairs, dtype=torch.int64).view(-1, 2).to(self.tokens.device).unbind(1)
            )
            self._trained[trained] = _as_slice(here), _as_slice(there)
        return self._trained[trained]

    def _lora(self, layer: LoraLinear) -> Rows | None:
        """W + scaling B A, row by row; without dropout, as in eval mode."""
        rows = self.of(layer.base_layer)
        if rows is None or layer.disable_adapters or layer.merged:
            return rows
        weight, bias = rows
        for name in layer.active_adapters:
            if name not in layer.lora_A:
                continue
            if name in layer.lora_variant:  # DoRA and others
                return None
            up, down, scaling = layer.lora_B[name], layer.lora_A[name], layer.scaling[name]
            weight = weight + (up.weight[self._tokens] @ down.weight * scaling).to(weight.dtype)
            if up.bias is not None:
                more = up.bias[self._tokens] * scaling
                bias = more if bias is None else bias + more
        return Rows(weight, bias)


def _as_slice(index: Tensor) -> Tensor | slice:
    """The same places as a slice where they are neighbours: it gives views."""
    if not len(index):
        return index
    first = int(index[0])
    neighbours = torch.arange(first, first + len(index), device=index.device)
    return slice(first, first + len(index)) if torch.equal(index, neighbours) else index
