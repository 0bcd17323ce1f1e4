"""Sizes of a whole run of `benchmarks.decoding`, and of a quick one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.decoding_checks import SMALL, TINY
from benchmarks.decoding_world import Case

FOUR, THREE = (256,) * 4, (8192,) * 3
BASE = Case()
FILTERED = Case(items=1_000_000, beams=50, batch=16)
LARGE = Case(beams=50, history=500, batch=4)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes of a whole run."""

    rounds: int = 5
    base: Case = BASE
    codes: tuple[tuple[int, ...], ...] = (FOUR, THREE)
    text_tokens: tuple[int, ...] = (3_000, 151_936)
    main_beams: tuple[int, ...] = (20, 50)
    beams: tuple[int, ...] = (10, 100)
    """Beside those of `main_beams`."""
    histories: tuple[int, ...] = (50, 500, 1_000)
    """Beside the base's."""
    batches: tuple[int, ...] = (1, 4, 16, 64)
    """Beside the base's."""
    stock_batch: int = 16
    """Largest batch given to the peers."""
    items: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    stock_items: int = 1_000_000
    """Largest catalogue given to the peers."""
    requests: int = 100
    stock_requests: int = 20
    filters: Case = FILTERED
    memory: Case = LARGE
    generated: int = 1_000_000
    tiny: Case = TINY
    small: Case = SMALL


QUICK = Plan(
    rounds=2,
    codes=(FOUR,),
    text_tokens=(3_000,),
    main_beams=(20,),
    beams=(10,),
    histories=(50,),
    batches=(1,),
    stock_batch=1,
    items=(10_000, 100_000),
    stock_items=10_000,
    requests=20,
    stock_requests=5,
    filters=Case(items=100_000, beams=20, batch=4),
    memory=Case(beams=20),
    generated=50_000,
)


class Task(NamedTuple):
    """One row of the results."""

    section: str
    case: dict[str, Any]
    """Everything that the figures depend on; with the code it says whether a row is still good."""
    run: Callable[[], dict[str, Any]]


Section = Callable[[Plan], Iterator[Task]]
