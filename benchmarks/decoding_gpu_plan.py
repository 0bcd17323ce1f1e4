"""Models, requests and ways to search of `benchmarks.decoding_gpu`, and the order of its rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.decoding_world import Case

OURS: dict[str, dict[str, Any]] = {
    "dynamic": {"cache": "dynamic"},
    "static": {"cache": "static"},
    "fixed": {},
    "fixed, graph": {"cuda_graph": True},
    "fixed, compiled": {"compiled": True},
    "fixed, compiled, graph": {"compiled": True, "cuda_graph": True},
}
"""Ours: any shapes with a growing or a preallocated cache, and fixed shapes."""
STOCK = ("nested", "reused")
"""Of the peers of `benchmarks.decoding`."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A model, a catalogue and requests."""

    shape: dict[str, int]
    """Of the model's config."""
    case: Case
    batches: tuple[int, ...]
    stock_batches: tuple[int, ...]
    calls: int = 10
    requests: int = 100
    """Calls at batch 1."""


def _shape(
    width: int, inner: int, layers: int = 28, heads: int = 16, size: int = 128
) -> dict[str, int]:
    return {
        "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": heads // 2, "head_dim": size,
    }  # fmt: skip


WORKLOADS = {
    "0.6B": Workload(
        shape=_shape(1024, 3072),
        case=Case(codes=(256,) * 4, text_tokens=151_936, beams=50, history=200),
        batches=(64, 1, 256, 16),
        stock_batches=(16, 1),
    ),
    "1.7B": Workload(
        shape=_shape(2048, 6144),
        case=Case(codes=(8192,) * 3, items=1_000_000, text_tokens=151_936, beams=256, history=1000),
        batches=(16, 1, 64, 4),
        stock_batches=(1,),
    ),
}
TINY = {
    "tiny": Workload(
        shape=_shape(32, 64, 2, 2, 16),
        case=Case(codes=(16,) * 3, items=500, text_tokens=100, beams=6, history=30),
        batches=(3, 1),
        stock_batches=(2,),
        calls=2,
        requests=3,
    )
}


def cases(workloads: dict[str, Workload], cuda: bool) -> Iterator[tuple[str, int, str]]:
    """Workload, batch and way of every row; what matters most first."""
    graphs = {"cuda_graph", "compiled"}
    ours = [name for name, how in OURS.items() if cuda or not how.keys() & graphs]
    for place in range(max(len(workload.batches) for workload in workloads.values())):
        for name, workload in workloads.items():
            for batches, ways in ((workload.batches, ours), (workload.stock_batches, STOCK)):
                for batch in batches[place : place + 1]:
                    yield from ((name, batch, way) for way in ways)
