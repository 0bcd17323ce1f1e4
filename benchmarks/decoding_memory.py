"""Peak memory of one contender, or of one Python trie, in a process of its own.

python -m benchmarks.decoding_memory level '{"beams": 50}'
python -m benchmarks.decoding_memory dict:nested '{"items": 1000000}'
"""

import gc
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import torch
from benchmarks.decoding_peers import PYTHON_TRIES, contender, problem_of
from benchmarks.decoding_world import Case, level_tokens, random_codes

Kind = Literal["search", "dict"]


def in_child(kind: Kind, name: str, case: Case) -> dict[str, float]:
    """Run this module for one contender or trie.

    Raises:
        RuntimeError: the child failed.
    """
    fields = {name: getattr(case, name) for name in case.__dataclass_fields__}
    command = [sys.executable, "-m", "benchmarks.decoding_memory", kind, name, json.dumps(fields)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def resident_mb(peak: bool) -> float:
    """Memory of this process now, or at most since `reset_peak` (Linux)."""
    field = "VmHWM" if peak else "VmRSS"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 2**10
    raise RuntimeError(f"/proc/self/status: no line {field}; peaks are measured on Linux only")


def reset_peak() -> float:
    """Forget the peak so far; megabytes now."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return resident_mb(peak=False)


def peak_of_search(name: str, case: Case) -> dict[str, float]:
    """What one call needs beside model, trie and prompts."""
    problem = problem_of(case)
    run = contender(problem, name)
    run(problem.input_ids[:, :8], problem.mask[:, :8])  # libraries are loaded at first use
    before = reset_peak()
    run(problem.input_ids, problem.mask)
    return {"peak_mb": round(resident_mb(peak=True) - before, 1)}


def dict_of_items(name: str, case: Case) -> dict[str, float]:
    """Seconds to build a Python trie and what it holds."""
    first = [ids[0] for ids in level_tokens(case.codes, case.text_tokens)]
    token_IL = random_codes(case.items, case.codes) + first
    before, began = reset_peak(), time.thread_time()
    kept = PYTHON_TRIES[name](row.tolist() for row in token_IL)  # its numbers count as its own
    seconds = time.thread_time() - began
    held = resident_mb(peak=False) - before
    assert kept
    return {
        "build_seconds": round(seconds, 3),
        "bytes_per_item": round(held * 2**20 / case.items, 1),
    }


def main() -> None:
    """Print the figures as JSON."""
    torch.set_num_threads(1)
    kind, name, fields = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    case = Case(**(fields | {"codes": tuple(fields.get("codes", Case.codes))}))
    figures = {"search": peak_of_search, "dict": dict_of_items}[kind](name, case)
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
