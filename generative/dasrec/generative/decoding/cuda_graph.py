"""A function of fixed shapes, recorded once as a CUDA graph."""

from collections.abc import Callable

import torch
from torch import Tensor

_WARM_UPS = 3
"""Calls before the recording: libraries take their memory and choose their kernels in them."""


class Replay:
    """Calls a function by replaying what it did on the device, without running its Python."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> None:
        """Record the function for inputs of these shapes; it may read nothing from the device."""
        self._inputs = [values.clone() for values in inputs]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may go on using the device meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._outputs = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs for other values; overwritten by the next call."""
        for place, values in zip(self._inputs, inputs, strict=True):
            place.copy_(values)
        self._graph.replay()
        return self._outputs
