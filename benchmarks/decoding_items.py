"""What `benchmarks.decoding` measures of catalogues: their size, and filters on their items."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from benchmarks import decoding_memory
from benchmarks.decoding_measure import in_turns, seconds, shares
from benchmarks.decoding_peers import OURS, STOCK, contender, problem_of
from benchmarks.decoding_plan import Plan, Task
from benchmarks.decoding_world import Case, Catalogue, level_tokens

from dasrec.generative import SidTrie
from dasrec.generative.decoding.allowed import Allowed

EXCLUDED = 200
"""Items that each user must not get."""


def items(plan: Plan) -> Iterator[Task]:
    """The same search in ever larger catalogues, all in one loop; building and filtering them."""
    for codes in plan.codes:
        case = dataclasses.replace(plan.base, codes=codes)
        sizes = {"items": list(plan.items), "stock_items": plan.stock_items}
        yield Task(
            "items",
            {**case.as_json(), **sizes, "rounds": plan.rounds},
            partial(_growing, plan, case),
        )


def _growing(plan: Plan, case: Case) -> dict[str, Any]:
    calls, rows = {}, []
    for number in plan.items:
        larger = dataclasses.replace(case, items=number)
        problem = problem_of(larger)
        stock = STOCK if number <= plan.stock_items else ()
        for name in (*stock, *OURS[1:]):
            run = contender(problem, name)
            calls[f"{name} {number}"] = partial(run, problem.input_ids, problem.mask)
        rows.append({"items": number, **_built(larger, problem.catalogue)})
        if number == plan.stock_items:
            rows[-1]["dicts"] = decoding_memory.in_child("dict", "nested", larger)
    timed = in_turns(calls, plan.rounds)
    for row in rows:
        number = row["items"]
        row["ours"] = {name: timed[f"{name} {number}"] for name in OURS[1:]}
        names = [name for name in STOCK if f"{name} {number}" in timed]
        row["peers"] = {name: timed[f"{name} {number}"] for name in names}
        smallest = timed[f"level {plan.items[0]}"]["cpu_seconds"]
        row["slower_than_smallest"] = round(row["ours"]["level"]["cpu_seconds"] / smallest, 3)
    return {"by_items": rows}


def _built(case: Case, items: Catalogue) -> dict[str, Any]:
    """Seconds to build the trie, its size, and milliseconds to apply a predicate on items."""
    tokens = level_tokens(case.codes, case.text_tokens)
    codes_IL = items.token_IL - [ids[0] for ids in tokens]
    spent: list[float] = []
    while not spent or (len(spent) < 5 and sum(spent) < 3):
        spent.append(seconds(lambda: SidTrie.from_sids(codes_IL, case.codes, tokens)))
    allowed = torch.from_numpy(np.random.default_rng(0).random(case.items) < 0.9)
    updates = [seconds(lambda: Allowed.of(items.trie, allowed)) for _ in range(7)]
    return {
        "build_seconds": round(float(np.median(spent)), 4),
        "bytes_per_item": round(items.trie.nbytes / case.items, 2),
        "predicate_ms": round(1000 * float(np.median(updates)), 2),
    }


def filters(plan: Plan) -> Iterator[Task]:
    """The same search under filters."""
    yield Task(
        "filters",
        {**plan.filters.as_json(), "excluded_per_user": EXCLUDED, "rounds": plan.rounds},
        lambda: _filters(plan.filters, plan.rounds),
    )


def _filters(case: Case, rounds: int) -> dict[str, Any]:
    problem = problem_of(case)
    rng = np.random.default_rng(0)
    allowed = torch.from_numpy(rng.random(case.items) < 0.1)
    excluded = torch.from_numpy(rng.integers(0, case.items, (case.batch, EXCLUDED)))
    shared = Allowed.of(problem.catalogue.trie, allowed)
    options: dict[str, dict[str, Any]] = {
        "none": {},
        "predicate, computed in the request": {"allowed": allowed},
        "predicate, shared by requests": {"allowed": shared},
        "excluded": {"excluded": excluded},
        "both": {"allowed": shared, "excluded": excluded},
    }
    calls = {}
    for name, option in options.items():
        run = contender(problem, "level", **option)
        calls[name] = partial(run, problem.input_ids, problem.mask)
    timed = in_turns(calls, rounds)
    return {
        "ours": timed,
        "share": {name: shares(problem, "level", **option) for name, option in options.items()},
        "slower_than_none": {
            name: round(figures["cpu_seconds"] / timed["none"]["cpu_seconds"], 3)
            for name, figures in timed.items()
        },
    }
