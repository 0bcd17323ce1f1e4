"""A key-value cache of fixed size: written in place, so that no step copies the prompt again."""

from functools import partial
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped here
    """Keys and values of one layer: as transformers' StaticLayer, read only as far as written.

    So masks are as wide as with a growing cache, and the prompt is attended to without one. The
    place of the next token is a plain number: each step has fixed shapes, and reading none of
    the device's memory can be captured in a CUDA graph.
    """

    is_compileable = True
    is_sliding = False  # sliding layers keep every key too; their masks hide the old ones

    def __init__(self, num_slots: int) -> None:
        super().__init__()
        self.num_slots = num_slots
        self.num_used = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate for the batch, heads and widths of (B, heads, tokens, width) states."""
        self.keys, self.values = (
            states.new_empty(*states.shape[:2], self.num_slots, states.shape[-1])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the states behind the last ones; return all that is written."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.num_used, self.num_used + key_states.shape[2]
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        self.num_used = end
        if not start:
            return key_states, value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that `query_length` new tokens may see, and the place of the first."""
        return self.num_used + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens written."""
        return self.num_used

    def get_max_length(self) -> int:
        """Tokens there is room for."""
        return self.num_slots

    def reset(self) -> None:
        """Begin again in the same memory."""
        self.num_used = 0


def slot_cache(num_slots: int) -> Any:
    """An empty cache for `num_slots` tokens a row; a layer's memory is taken at its first use."""
    return Cache(layer_class_to_replicate=partial(SlotLayer, num_slots))
