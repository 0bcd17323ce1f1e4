"""Trained token rows that cost only themselves.

peft keeps the trained rows of an embedding or an output matrix apart, but each pass copies the
whole matrix to put them in, and the way back makes a gradient of the whole matrix. Here both parts
are looked up or multiplied on their own. Parameters, state-dict names, saving and merging stay
peft's, so that adapters load with plain peft.

Shape letters: R trained rows, V vocabulary, H hidden width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch import Tensor, nn


class SplitTokensLayer(TrainableTokensLayer):  # type: ignore[misc]  # peft is untyped here
    """peft's layer with another forward pass: the same values and gradients.

    An output layer that has a bias (Phi, GPT-J) keeps it, which peft's own pass leaves out: there
    the adapter computes another function than its merged weights.
    """

    def forward_adapters(
        self, x: Tensor, active_adapters: Any, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Token ids (...) -> (..., H) of an embedding, or hidden states -> logits (..., V)."""
        if self.disable_adapters or self.merged or len(active_adapters) != 1:
            result: Tensor = super().forward_adapters(x, active_adapters, *args, **kwargs)
            return result
        (name,) = active_adapters
        trained_RH = self.trainable_tokens_delta[name]
        if isinstance(self.base_layer, nn.Embedding):
            return self._embed(x, self.rows_of(x), trained_RH)
        dtype = _compute_dtype(self.base_layer.weight)
        tokens_R = torch.tensor(self.token_indices[name], device=x.device)
        logits: Tensor = _SplitLinear.apply(  # type: ignore[no-untyped-call]
            x.to(dtype), self.base_layer.weight.to(dtype), trained_RH.to(dtype), tokens_R
        )
        return logits if self.base_layer.bias is None else logits + self.base_layer.bias

    def rows_of(self, tokens: Tensor) -> Tensor:
        """The trained row of each token, -1 where it has none; same shape as `tokens`."""
        (name,) = self.active_adapters
        known = self.__dict__.get("_row_of_token")
        if known is None or known[0] != name or known[1].device != tokens.device:
            indices = torch.tensor(self.token_indices[name])
            rows_V = torch.full((self.base_layer.weight.shape[0],), -1)
            rows_V[indices] = torch.arange(len(indices))
            known = (name, rows_V.to(tokens.device))
            self.__dict__["_row_of_token"] = known  # neither a parameter nor a buffer: not saved
        rows: Tensor = known[1][tokens]
        return rows

    def _embed(self, x: Tensor, rows: Tensor, trained_RH: Tensor) -> Tensor:
        frozen = F.embedding(x, self.base_layer.weight)
        trained = F.embedding(rows.clamp_min(0), trained_RH).to(frozen.dtype)
        result = torch.where((rows >= 0)[..., None], trained, frozen)
        scale = self._get_embed_scale()  # Gemma multiplies what it looks up
        return result if scale is None else result * scale.to(result.dtype)


class _SplitLinear(torch.autograd.Function):
    """x @ W.T with some rows of W replaced by trained ones; W itself gets no gradient.

    One matrix of logits is made and none is copied, on the way back neither.
    """

    @staticmethod
    def forward(ctx, x, frozen_VH, trained_RH, tokens_R):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, frozen_VH, trained_RH, tokens_R)
        logits = F.linear(x, frozen_VH)
        logits[..., tokens_R] = F.linear(x, trained_RH)
        return logits

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        x, frozen_VH, trained_RH, tokens_R = ctx.saved_tensors
        of_trained = gradient[..., tokens_R]
        of_x = gradient @ frozen_VH + of_trained @ (trained_RH - frozen_VH[tokens_R])
        of_rows = of_trained.flatten(0, -2).T @ x.flatten(0, -2)
        return of_x, None, of_rows, None


def _compute_dtype(weight: Tensor) -> torch.dtype:
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def split_token_rows(model: nn.Module) -> None:
    """Give every TrainableTokensLayer of a PEFT model the forward pass above, in place.

    Raises:
        ValueError: an embedding renormalises its rows, which only peft's own pass can do.
    """
    layer: Any
    for layer in model.modules():
        if type(layer) is not TrainableTokensLayer:
            continue
        base = layer.get_base_layer()
        if isinstance(base, nn.Embedding) and (base.max_norm or base.scale_grad_by_freq):
            raise ValueError(
                "lora: an embedding with max_norm or scale_grad_by_freq cannot have trained token "
                "rows; fine-tune this model in full (lora: null)"
            )
        layer.__class__ = SplitTokensLayer
