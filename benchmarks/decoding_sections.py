"""What `benchmarks.decoding` measures: checks, races of contenders, latency, memory.

Each section yields its rows as tasks.
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks import decoding_checks, decoding_memory
from benchmarks.decoding_measure import quantiles, race
from benchmarks.decoding_peers import OURS, STOCK, contender, problem_of
from benchmarks.decoding_plan import Plan, Task
from benchmarks.decoding_world import Case


def checks(plan: Plan) -> Iterator[Task]:
    """Exactness and validity."""
    case, number = plan.tiny, plan.generated
    yield Task(
        "checks",
        {"what": "generated items", "number": number, **case.as_json()},
        lambda: decoding_checks.generated_items(case, number),
    )
    yield Task(
        "checks",
        {"what": "exhaustive scoring", **plan.small.as_json()},
        lambda: decoding_checks.exhaustive_lists(plan.small),
    )


def main(plan: Plan) -> Iterator[Task]:
    """All contenders: codes by vocabulary by beams."""
    for text_tokens in plan.text_tokens:
        for codes in plan.codes:
            for beams in plan.main_beams:
                case = dataclasses.replace(
                    plan.base, codes=codes, text_tokens=text_tokens, beams=beams
                )
                cheapest = (text_tokens, beams) == (plan.text_tokens[0], plan.main_beams[0])
                strings = ("strings",) if cheapest else ()
                names = ("nested", *strings, "free", "reused", "floor", *OURS)
                yield _race("main", case, names, plan.rounds)


def growth(plan: Plan) -> Iterator[Task]:
    """Beams, history and batch, one at a time."""
    names = (*STOCK, "floor", *OURS)
    for beams in plan.beams:
        yield _race("growth", dataclasses.replace(plan.base, beams=beams), names, plan.rounds)
    for history in plan.histories:
        yield _race("growth", dataclasses.replace(plan.base, history=history), names, plan.rounds)
    for batch in plan.batches:
        stock = STOCK if batch <= plan.stock_batch else ()
        case = dataclasses.replace(plan.base, batch=batch)
        yield _race("growth", case, (*stock, "floor", *OURS), plan.rounds)


def _race(section: str, case: Case, names: tuple[str, ...], rounds: int) -> Task:
    return Task(
        section,
        {**case.as_json(), "contenders": list(names), "rounds": rounds},
        lambda: race(problem_of(case), names, rounds),
    )


def latency(plan: Plan) -> Iterator[Task]:
    """Milliseconds of the clock per request, one at a time."""
    for beams in plan.main_beams:
        case = dataclasses.replace(plan.base, beams=beams, batch=plan.requests)
        yield Task(
            "latency",
            {**case.as_json(), "batch": 1, "requests": [plan.requests, plan.stock_requests]},
            partial(_latency, case, plan.stock_requests),
        )


def _latency(case: Case, stock_requests: int) -> dict[str, Any]:
    many = problem_of(case)
    row: dict[str, Any] = {"ours": {}, "peers": {}}
    for name in (*OURS, *STOCK):
        run = contender(many, name)
        number = case.batch if name in OURS else min(case.batch, stock_requests)
        calls = [
            partial(run, many.input_ids[i : i + 1], many.mask[i : i + 1]) for i in range(number)
        ]
        row["ours" if name in OURS else "peers"][name] = quantiles(calls)
    middle = row["ours"]["level"]["p50_ms"]
    ratio = {name: round(row["peers"][name]["p50_ms"] / middle, 2) for name in STOCK}
    return row | {"ratio": ratio}


def memory(plan: Plan) -> Iterator[Task]:
    """Peak memory of one call of each contender."""
    for text_tokens in plan.text_tokens:
        case = dataclasses.replace(plan.memory, text_tokens=text_tokens)

        def peaks(case: Case = case) -> dict[str, Any]:
            def peak(name: str) -> dict[str, float]:
                return decoding_memory.in_child("search", name, case)

            return {
                "ours": {name: peak(name) for name in OURS},
                "peers": {name: peak(name) for name in (*STOCK, "floor")},
            }

        yield Task("memory", case.as_json(), peaks)
