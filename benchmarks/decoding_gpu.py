"""Constrained decoding on a GPU: users per second, latency and memory, against `generate`.

    python -m benchmarks.decoding_gpu --minutes 9

Random bfloat16 weights of Qwen3's 0.6B and 1.7B shapes. Each row is written when it is there and
kept while the code stays the same, so that the same command goes on where it stopped. --tiny tries
everything but the graphs on a small model, on any device, and prints the rows.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from benchmarks.decoding import sources
from benchmarks.decoding_gpu_plan import OURS, STOCK, TINY, WORKLOADS, Workload, cases
from benchmarks.decoding_peers import PEERS, Problem, contender
from benchmarks.decoding_world import catalogue, prompts
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from dasrec.core.artifacts import code_version
from dasrec.eval.results import hardware, typed
from dasrec.generative import FixedShapeSearch, SearchResult, constrained_beam_search

OUT = Path("benchmarks/results/decoding_gpu.json")
STATISTIC = "median seconds of the clock over the calls, the device waited for at the end of each"


def model_of(workload: Workload, device: torch.device) -> Any:
    """Random weights, with an output layer of its own that tells tokens apart."""
    config = Qwen3Config(
        **workload.shape,
        vocab_size=workload.case.text_tokens + sum(workload.case.codes),
        max_position_embeddings=4_096,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    with device:
        model = Qwen3ForCausalLM(config).to(torch.bfloat16).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(8)
    return model


def problem_of(workload: Workload, model: Any, batch: int) -> Problem:
    """Prompts for a batch, on the model's device."""
    case = replace(workload.case, batch=batch)
    items = catalogue(case.items, case.codes, case.text_tokens)
    items = replace(items, trie=items.trie.to(model.device))
    ids, mask = prompts(case, items.token_IL, seed=batch)
    return Problem(model, items, case.beams, ids.to(model.device), mask.to(model.device))


def search_of(problem: Problem, name: str) -> Callable[[Tensor, Tensor], Any]:
    """One of OURS or STOCK, prepared for the problem's shape."""
    if name in STOCK:
        return contender(problem, name)
    if "cache" in OURS[name]:
        return contender(problem, "level", **OURS[name])
    batch, length = problem.input_ids.shape
    return FixedShapeSearch(
        problem.model,
        problem.catalogue.trie,
        batch_size=batch,
        prompt_lengths=[length],
        num_beams=problem.beams,
        num_items=problem.beams,
        **OURS[name],
    )


def measure(workload: Workload, problem: Problem, name: str) -> dict[str, Any]:
    """The figures of one row."""
    device = problem.input_ids.device
    batch = len(problem.input_ids)
    _empty(device)
    before = _memory(device)
    began = time.perf_counter()
    search = search_of(problem, name)
    found = search(problem.input_ids, problem.mask)
    _wait(device)
    prepared = time.perf_counter() - began
    seconds = []
    for _ in range(workload.requests if batch == 1 else workload.calls):
        began = time.perf_counter()
        search(problem.input_ids, problem.mask)
        _wait(device)
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds)
    case = workload.case
    tokens = case.history + case.beams * (len(case.codes) - 1)
    body = sum(p.numel() for p in problem.model.model.layers.parameters())
    figures = {
        "users_per_second": round(batch / median, 2),
        "milliseconds": round(1000 * median, 3),
        "p95_milliseconds": round(1000 * _p95(seconds), 3),
        "calls": len(seconds),
        "first_call_seconds": round(prepared, 2),
        "peak_mib": round(_peak(device) / 2**20),
        "peak_mib_beside_the_model": round((_peak(device) - before) / 2**20),
    }
    if name in STOCK:
        return figures
    needed = 2 * body * tokens * batch / median / 1e12
    return figures | {"tflops": float(f"{needed:.3g}")} | agreement(problem, found)


def agreement(problem: Problem, found: SearchResult) -> dict[str, float]:
    """Share of listed items that a search of any shapes lists too; 1 but for rounding near ties."""
    expected = constrained_beam_search(
        problem.model,
        problem.input_ids,
        problem.mask,
        problem.catalogue.trie,
        num_beams=problem.beams,
        num_items=problem.beams,
    )
    same = (found.items.unsqueeze(2) == expected.items.unsqueeze(1)).any(2)
    return {"items_as_dynamic": round(float(same.float().mean()), 4)}


class Rows:
    """The results file, written anew after each row."""

    def __init__(self, path: Path | None, device: torch.device) -> None:
        """Go on with what is there; None keeps nothing."""
        self.path = path
        old = json.loads(path.read_text())["rows"] if path is not None and path.exists() else []
        name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        self.stamp = {"device": name, "sources": sources()}
        self.document: dict[str, Any] = {
            "name": "decoding_gpu",
            "hardware": hardware(),
            "command": typed(["python", "-m", "benchmarks.decoding_gpu", *sys.argv[1:]]),
            "code": code_version(),
            "statistic": STATISTIC,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "dtype": "bfloat16",
            "ours": OURS,
            "peers": {name: PEERS[name] for name in STOCK},
            "rows": [
                row for row in old if row["device"] != name or self.stamp.items() <= row.items()
            ],
        }

    def has(self, key: dict[str, Any]) -> bool:
        """Whether a row of this device is there."""
        wanted = (key | self.stamp).items()
        return any(wanted <= row.items() for row in self.document["rows"])

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row."""
        self.document["rows"].append(row | self.stamp)
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            scratch = self.path.with_suffix(".part")
            scratch.write_text(json.dumps(self.document, indent=1) + "\n")
            os.replace(scratch, self.path)


def run(workloads: dict[str, Workload], rows: Rows, device: torch.device, deadline: float) -> bool:
    """Measure what is missing; whether everything is there."""
    models: dict[str, Any] = {}
    for name, batch, way in cases(workloads, device.type == "cuda"):
        key = {"workload": name, "batch": batch, "way": way}
        if rows.has(key):
            continue
        if time.monotonic() > deadline:
            return False
        workload = workloads[name]
        if name not in models:
            models.clear()
            _empty(device)
            models[name] = model_of(workload, device)
        sizes = asdict(workload.case) | {"batch": batch, **workload.shape}
        sizes = {k: v for k, v in sizes.items() if k not in {"width", "layers", "batch"}}
        try:
            figures = measure(workload, problem_of(workload, models[name], batch), way)
        except torch.cuda.OutOfMemoryError:
            figures = {"users_per_second": None, "why": "out of memory"}
        rows.add(key | figures | {"sizes": sizes})
    return True


def _p95(seconds: list[float]) -> float:
    return float(torch.tensor(seconds, dtype=torch.float64).quantile(0.95))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _empty(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _memory(device: torch.device) -> int:
    return torch.cuda.memory_allocated() if device.type == "cuda" else 0


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


def main() -> None:
    """Go on where the last call stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=list(WORKLOADS), help="which models")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no row after")
    parser.add_argument("--tiny", action="store_true", help="a small model, nothing is written")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not args.tiny:
        parser.error("no CUDA device is here; --tiny tries the code without one")
    transformers.logging.set_verbosity_error()
    workloads = {k: w for k, w in WORKLOADS.items() if not args.only or k in args.only}
    rows = Rows(None if args.tiny else args.out, device)
    deadline = time.monotonic() + 60 * args.minutes
    if not run(TINY if args.tiny else workloads, rows, device, deadline):
        sys.stderr.write("out of time; give the same command again to go on\n")
        sys.exit(3)


if __name__ == "__main__":
    main()
