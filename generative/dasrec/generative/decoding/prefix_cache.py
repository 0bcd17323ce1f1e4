"""The keys and values of an instruction that every prompt begins with, computed once.

Shape letters: B users, P prefix tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import DynamicCache


class PromptPrefix:
    """A shared beginning of prompts: `constrained_beam_search(..., prefix=...)` continues from it.

    The same lists come back as with the tokens written into every prompt, to rounding. It belongs
    to the weights, adapter and dtype it was computed with. `check` notices a training step, loaded
    weights and a switched, merged or disabled adapter; a change through `parameter.data` it cannot.
    """

    def __init__(self, model: nn.Module, token_ids: Sequence[int] | Tensor) -> None:
        """Read the prefix.

        Args:
            model: As in `constrained_beam_search`.
            token_ids: (P,) the first tokens of every prompt, any beginning-of-text token included.

        Raises:
            ValueError: No tokens, or the model is in training mode.
        """
        self.token_ids = torch.as_tensor(token_ids, dtype=torch.int64).cpu()
        if self.token_ids.ndim != 1 or not len(self.token_ids):
            raise ValueError(
                f"token_ids: at least one token needed, got shape {tuple(self.token_ids.shape)}"
            )
        if model.training:
            raise ValueError("model: dropout is on (training mode); call model.eval() first")
        self._parameters = list(model.parameters())
        kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
        self._adapters: list[Any] = [m for m in model.modules() if isinstance(m, kinds)]
        self._state = self._current()
        self._layers = self._read(model)

    def __len__(self) -> int:
        """P."""
        return len(self.token_ids)

    def check(self, model: nn.Module) -> None:
        """Refuse a model whose weights are not those the prefix was computed with.

        Raises:
            ValueError: Another model, or its weights or adapters have changed.
        """
        first = next(model.parameters(), None)
        if first is not self._parameters[0] or self._current() != self._state:
            raise ValueError(
                "prefix: computed by another model, or before its weights or adapters changed;"
                " make PromptPrefix anew"
            )

    def write(self, cache: Any, batch_size: int) -> None:
        """Put the prefix of B users into an empty cache."""
        for index, states in enumerate(self._layers):
            key, value = (x.expand(batch_size, -1, -1, -1) for x in states)
            cache.update(key, value, index)

    @torch.no_grad()
    def _read(self, model: Any) -> list[tuple[Tensor, Tensor]]:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        device = base.get_input_embeddings().weight.device
        ids = self.token_ids.to(device).unsqueeze(0)
        cache: Any = DynamicCache()  # without a config every layer keeps all keys
        base.get_decoder()(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=torch.arange(len(self), device=device).unsqueeze(0),
            past_key_values=cache,
            use_cache=True,
        )
        return [(layer.keys, layer.values) for layer in cache.layers]

    def _current(self) -> list[tuple[Any, ...]]:
        """What in-place changes of weights and switches of adapters leave behind."""
        weights = [(p.data_ptr(), p._version) for p in self._parameters]
        return weights + [
            (a.disable_adapters, tuple(a.active_adapters), getattr(a, "merged", False))
            for a in self._adapters
        ]
