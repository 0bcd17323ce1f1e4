"""Axes: round ticks, and numbers as short as they can be told apart."""

import math
from collections.abc import Iterable


def ticks(low: float, high: float, most: int = 5, *, whole: bool = False) -> list[float]:
    """At most `most` round numbers from `low` to `high`, whole ones if asked.

    They are 1, 2 or 5 times a power of ten apart.

    >>> ticks(0, 0.083)
    [0.0, 0.02, 0.04, 0.06, 0.08]
    >>> ticks(-3, 7)
    [-2.0, 0.0, 2.0, 4.0, 6.0]
    """
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20):
        step = max(factor * power, float(whole))
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def tick_labels(values: Iterable[float]) -> list[str]:
    """Ticks as text, all with as many digits as the one that needs most.

    >>> tick_labels([0.0, 0.05, 0.1]), tick_labels([0.0, 20000.0])
    (['0', '0.05', '0.10'], ['0', '20k'])
    """
    values = list(values)
    if values and all(value % 1000 == 0 for value in values) and max(map(abs, values)) >= 10_000:
        return [f"{value / 1000:.0f}k" if value else "0" for value in values]
    digits = max(
        (len(f"{value:.10f}".rstrip("0").partition(".")[2]) for value in values), default=0
    )
    return [f"{value:.{digits}f}" if value else "0" for value in values]


def padded(low: float, high: float, share: float = 0.04) -> tuple[float, float]:
    """A range with some room at both ends; one point gets room around it."""
    room = (high - low) * share or abs(high) * share or 1.0
    return low - room, high + room
