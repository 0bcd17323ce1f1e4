"""Running the last layer of a prompt for its last position only.

Of a prompt only the last position's output is read. The last layer's attention needs the keys and
values of all positions, its output projection and MLP do not; a shallow model spends a good part of
a prompt there. They are given the last position alone, and adding their (B, 1, H) results to the
(B, T, H) residual spreads them over the others, whose rows become meaningless.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class LastPosition:
    """The modules of a decoder that may see the last position only."""

    def __init__(self, body: nn.Module) -> None:
        """Find them; there are none in layers that are not built like Llama's."""
        layers = getattr(body, "layers", None)
        last = layers[-1] if isinstance(layers, nn.ModuleList) and len(layers) else None
        found = (
            getattr(getattr(last, "self_attn", None), "o_proj", None),
            getattr(last, "mlp", None),
        )
        self._modules = [module for module in found if isinstance(module, nn.Module)]
        if len(self._modules) < 2:
            self._modules = []

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._modules)

    @contextmanager
    def only(self) -> Iterator[None]:
        """Within, this thread's forward passes are right at the last position only."""
        thread = threading.get_ident()

        def cut(module: nn.Module, args: Any) -> Any:
            if not args or threading.get_ident() != thread:  # others may run the same model
                return None
            return (args[0][:, -1:], *args[1:])

        # Not with_kwargs: a thread that has read a hook just removed would call it without them.
        handles = [module.register_forward_pre_hook(cut) for module in self._modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
