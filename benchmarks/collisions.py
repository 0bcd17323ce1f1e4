"""Time and memory of the collision policies on clustered codes, up to a million items.

    python benchmarks/collisions.py --out benchmarks/results/collisions.json

Peer: the same greedy rule, one item after the other in Python.
The codes imitate a catalogue: a Zipf law over prefixes (hundreds of items under the largest), and
under a prefix a few popular last codes.
"""

import argparse
import json
import statistics
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dasrec.core.artifacts import code_version
from dasrec.eval.results import hardware, typed
from dasrec.tokenizer.collisions import number_groups, reassign_last

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Policy = Callable[[Ints, Floats, Floats, Ints], Ints]

CASES = (
    {"policy": "reassign_last", "levels": "256^4", "items": 100_000},
    {"policy": "reassign_last", "levels": "256^4", "items": 1_000_000},
    {"policy": "cap", "cap": 5, "levels": "256^4", "items": 100_000},
    {"policy": "cap", "cap": 5, "levels": "256^4", "items": 1_000_000},
    {"policy": "extra_level", "levels": "512^3", "items": 100_000},
    {"policy": "extra_level", "levels": "512^3", "items": 1_000_000},
)
RUNS = 5
DIM = 32


def clustered_codes(items: int, size: int, levels: int) -> tuple[Ints, Floats, Floats, Ints]:
    """Codes (items, levels), residuals of the last level, its codebook, popularity."""
    rng = np.random.default_rng(0)
    prefixes = items // 8
    share = 1 / (10 + np.arange(prefixes)) ** 0.7
    prefix = rng.choice(prefixes, items, p=share / share.sum())
    order = np.argsort(prefix, kind="stable")
    rank = np.arange(items) - np.searchsorted(prefix[order], prefix[order])
    full = order[rank >= size]  # a prefix has room for `size` unique SIDs
    prefix[full] = rng.integers(prefixes, size=len(full)) + prefixes
    codes_of = rng.integers(size, size=(2 * prefixes, levels - 1))
    book = rng.normal(size=(size, DIM)).astype(np.float32)
    common = rng.integers(size, size=(2 * prefixes, 3))  # last codes that a prefix likes
    last = np.where(
        rng.random(items) < 0.6,
        common[prefix, rng.integers(3, size=items)],
        rng.integers(size, size=items),
    )
    residual = book[last] + 0.3 * rng.normal(size=(items, DIM)).astype(np.float32)
    popularity = (rng.zipf(1.5, items) - 1).clip(max=10_000)
    return np.column_stack([codes_of[prefix], last]), residual.astype(np.float32), book, popularity


def loop(codes: Ints, residual: Floats, book: Floats, popularity: Ints, cap: int) -> Ints:
    """The rule of `reassign_last`, item by item."""
    codes, held, moving = codes.copy(), Counter[tuple[int, ...]](), []
    for i in np.lexsort((np.arange(len(codes)), -popularity)):
        key = tuple(codes[i])
        if held[key] == cap:
            moving.append(i)
        else:
            held[key] += 1
    length = (book**2).sum(1)
    for i in moving:
        prefix = tuple(codes[i, :-1])
        for code in np.argsort(length - 2 * book @ residual[i], kind="stable"):
            if held[(*prefix, code)] < cap:
                codes[i, -1] = code
                held[(*prefix, code)] += 1
                break
    return codes


def number_loop(codes: Ints, popularity: Ints) -> Ints:
    """The rule of `number_groups`, item by item."""
    seen, number = Counter[tuple[int, ...]](), np.zeros(len(codes), np.int64)
    for i in np.lexsort((np.arange(len(codes)), -popularity)):
        key = tuple(codes[i])
        number[i] = seen[key]
        seen[key] += 1
    return number


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """One row of the results."""
    size, levels = map(int, case["levels"].split("^"))
    codes, residual, book, popularity = clustered_codes(case["items"], size, levels)
    cap = case.get("cap", 1)

    def ours() -> Ints:
        if case["policy"] == "extra_level":
            return np.column_stack([codes, number_groups(codes, popularity)])
        return reassign_last(codes, residual, book, popularity, cap=cap)

    def peer() -> Ints:
        if case["policy"] == "extra_level":
            return np.column_stack([codes, number_loop(codes, popularity)])
        return loop(codes, residual, book, popularity, cap)

    contenders = {"ours": ours, "peer": peer}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    result: dict[str, Ints] = {}
    for _ in range(RUNS):
        for name, run in contenders.items():
            began = time.perf_counter()
            result[name] = run()
            seconds[name].append(time.perf_counter() - began)
    most = int(np.unique(result["ours"], axis=0, return_counts=True)[1].max())
    if most > cap:
        raise AssertionError(f"{case}: {most} items with one SID")
    tracemalloc.start()
    ours()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    groups = np.unique(codes, axis=0, return_counts=True)[1]
    under = np.unique(codes[:, :-1], axis=0, return_counts=True)[1]
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "case": case
        | {
            "collision_rate_before": round(1 - len(groups) / len(codes), 4),
            "largest_group_before": int(groups.max()),
            "largest_prefix": int(under.max()),
        },
        "ours": {"seconds": round(median["ours"], 4), "peak_mb": round(peak / 2**20)},
        "peer": {"name": "greedy loop", "seconds": round(median["peer"], 4)},
        "ratio": round(median["peer"] / median["ours"], 1),
        "same_result": bool((result["ours"] == result["peer"]).all()),
        "largest_group_after": most,
    }


def main() -> None:
    """Measure every case and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/collisions.json"))
    out = parser.parse_args().out
    rows = []
    for case in CASES:
        rows.append(measure(case))
        sys.stdout.write(json.dumps(rows[-1]) + "\n")
    document = {
        "name": "collisions",
        "hardware": hardware(),
        "command": typed(["python", *sys.argv]),
        "code": code_version(),
        "rows": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
