"""Timing contenders in turns, and whether they give the same lists."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from benchmarks.decoding_peers import OURS, PEERS, Problem, contender
from benchmarks.decoding_world import Codes
from torch import Tensor

from dasrec.generative import SearchResult

FAST = 0.3
"""Seconds; of what is faster, every round takes FAST_CALLS calls instead of one."""
FAST_CALLS = 3
TOLERANCE = 1e-4
"""Of scores (log-probabilities)."""
STATISTIC = (
    "median over the calls; contenders take turns in one process of one thread; cpu_seconds are of"
    " that thread (time.thread_time), wall_seconds of the clock"
)


def in_turns(
    calls: Mapping[str, Callable[[], Any]], rounds: int, first: Mapping[str, float] | None = None
) -> dict[str, dict[str, Any]]:
    """Seconds of each call, in `rounds` rounds; `first` are those of first calls made before."""
    if first is None:
        first = {name: seconds(call) for name, call in calls.items()}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    wall: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    gc.freeze()  # the objects of one contender's trie are not to slow the others
    for _ in range(rounds):
        for name, call in calls.items():
            gc.collect()
            for _ in range(FAST_CALLS if first[name] < FAST else 1):
                began = time.thread_time(), time.perf_counter()
                call()
                cpu[name].append(time.thread_time() - began[0])
                wall[name].append(time.perf_counter() - began[1])
    gc.unfreeze()
    return {
        name: {
            "cpu_seconds": round(statistics.median(cpu[name]), 5),
            "wall_seconds": round(statistics.median(wall[name]), 5),
            "cpu_range": [round(min(cpu[name]), 5), round(max(cpu[name]), 5)],
            "calls": len(cpu[name]),
        }
        for name in calls
    }


def seconds(call: Callable[[], Any]) -> float:
    """CPU seconds of one call."""
    began = time.thread_time()
    call()
    return time.thread_time() - began


def race(problem: Problem, names: tuple[str, ...], rounds: int) -> dict[str, Any]:
    """Time contenders on one problem; the fields of a row."""
    lists, calls, first = {}, {}, {}
    for name in names:
        slow = name in PEERS and name not in {"floor", "free"}
        told = {"return_dict_in_generate": True, "output_scores": True} if slow else {}
        # Scores are asked for once: `generate` then keeps those of the whole vocabulary.
        run = contender(problem, name, **told)
        began = time.thread_time()
        found = run(problem.input_ids, problem.mask)
        first[name] = time.thread_time() - began
        lists[name] = (found.sequences, found.sequences_scores) if slow else found
        calls[name] = partial(contender(problem, name), problem.input_ids, problem.mask)
    row = _row(problem, in_turns(calls, rounds, first), lists)
    for name, figures in row["ours"].items():
        figures["share"] = shares(problem, name)
    return row


def shares(problem: Problem, name: str, **options: Any) -> dict[str, float]:
    """What part of the time each part of our search takes, over some calls."""
    timings: dict[str, float] = {}
    run = contender(problem, name, timings=timings, **options)
    first = seconds(partial(run, problem.input_ids, problem.mask))
    for _ in range(3 * FAST_CALLS if first < FAST else FAST_CALLS):
        run(problem.input_ids, problem.mask)
    whole = sum(timings.values())
    return {part: round(spent / whole, 4) for part, spent in timings.items()}


def _row(
    problem: Problem, timed: dict[str, dict[str, Any]], lists: dict[str, Any]
) -> dict[str, Any]:
    ours = {name: timed[name] for name in OURS if name in timed}
    peers = {name: timed[name] for name in PEERS if name in timed}
    ratios = {
        peer: {mine: round(theirs["cpu_seconds"] / ours[mine]["cpu_seconds"], 2) for mine in ours}
        for peer, theirs in peers.items()
    }
    row: dict[str, Any] = {"ours": ours, "peers": peers, "ratio": ratios}
    oracle = next((name for name in ("nested", "reused") if name in lists), None)
    if oracle is None or "full" not in lists:
        return row | {"same_result": None}
    return row | same_lists(problem, oracle, lists[oracle], lists["full"])


def same_lists(
    problem: Problem, oracle: str, theirs: tuple[Tensor, Tensor], ours: SearchResult
) -> dict[str, Any]:
    """Whether `generate` and the search with normalize="full" give the same lists.

    Items whose scores differ by less than TOLERANCE may change places, and the last ones of a list
    may be others where they tie with those left out.
    """
    token_IL, levels = problem.catalogue.token_IL, problem.catalogue.trie.num_levels
    users = len(ours.items)
    sequences = theirs[0][:, -levels:].view(users, -1, levels)
    scores = theirs[1].view(users, -1)
    order = same = True
    largest = 0.0
    for user in range(users):
        mine = _list(token_IL, ours.items[user], ours.scores[user])
        other = dict(zip(map(tuple, sequences[user].tolist()), scores[user].tolist(), strict=True))
        order &= list(mine) == list(other)
        by_rank = zip(mine.values(), other.values(), strict=False)
        by_item = [(mine[sid], other[sid]) for sid in mine.keys() & other.keys()]
        difference = max(abs(a - b) for a, b in [*by_rank, *by_item])
        last = max(min(mine.values()), min(other.values()))
        alone = [(mine | other)[sid] for sid in mine.keys() ^ other.keys()]
        same &= difference < TOLERANCE and all(abs(score - last) < TOLERANCE for score in alone)
        largest = max(largest, difference)
    return {
        "same_result": same,
        "identical_order": order,
        "largest_score_difference": float(f"{largest:.2g}"),
        "compared": f'{users} lists of "{oracle}" with normalize="full": items, order and scores',
    }


def _list(token_IL: Codes, item_k: Tensor, score_k: Tensor) -> dict[tuple[int, ...], float]:
    """SID -> score of one list, in its order; items of one SID share an entry."""
    rows = token_IL[item_k[item_k >= 0].numpy()].tolist()
    return dict(zip(map(tuple, rows), score_k.tolist(), strict=False))


def quantiles(calls: Sequence[Callable[[], Any]]) -> dict[str, float]:
    """Milliseconds of the clock over many different calls: the middle one and the slow tail."""
    for call in calls[:2]:
        call()
    spent = []
    for call in calls:
        began = time.perf_counter()
        call()
        spent.append(1000 * (time.perf_counter() - began))
    p50, p95 = torch.tensor(spent).quantile(torch.tensor([0.5, 0.95])).tolist()
    return {"p50_ms": round(p50, 2), "p95_ms": round(p95, 2), "requests": len(spent)}
