"""Seconds of the parts of a search, for benchmarks."""

import time

import torch


class Laps:
    """Adds the time since the lap before to a part; does nothing without a place to add it."""

    def __init__(self, seconds: dict[str, float] | None, device: torch.device) -> None:
        """Start the first lap.

        Args:
            seconds: What to add to, by name of the part; None measures nothing.
            device: Waited for at each lap where it works on its own.
        """
        self._seconds = seconds
        self._waits = seconds is not None and device.type == "cuda"
        self._start = self._now() if seconds is not None else 0.0

    def lap(self, part: str) -> None:
        """End a lap, spent on `part`."""
        if self._seconds is not None:
            now = self._now()
            self._seconds[part] = self._seconds.get(part, 0.0) + now - self._start
            self._start = now

    def _now(self) -> float:
        if self._waits:
            torch.cuda.synchronize()
        return time.perf_counter()
