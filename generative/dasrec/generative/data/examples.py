"""One next-item question per window of a training history, for tasks that ask one per row.

Shape letters: E examples, N items of all histories.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dasrec.core import Ragged
from dasrec.generative.data.sequences import SequenceBuilder, Windows
from dasrec.generative.data.tokens import TokenSequences, starts_of


class Examples(NamedTuple):
    """Histories and the training item that came next."""

    users: npt.NDArray[np.int64]
    """(E,)"""
    items: Ragged
    """E histories, none empty, oldest first."""
    times: npt.NDArray[np.int64]
    """(N,) seconds, or `UNKNOWN_TIME`."""
    targets: npt.NDArray[np.int32]
    """(E,) the next item."""
    now: npt.NDArray[np.int64]
    """(E,) when it was chosen."""
    windows: npt.NDArray[np.int64]
    """(E,) number of the window."""

    def prompts(self, builder: SequenceBuilder) -> TokenSequences:
        """The prompts that ask for the targets."""
        return builder.prompts(self.items, self.users, times=self.times, now=self.now)

    def keep(self, kept: npt.NDArray[np.bool_]) -> "Examples":
        """Some of the examples."""
        lengths = np.diff(self.items.starts)
        flat = np.repeat(kept, lengths)
        items = Ragged(self.items.values[flat], starts_of(lengths[kept]))
        return Examples(
            self.users[kept],
            items,
            self.times[flat],
            self.targets[kept],
            self.now[kept],
            self.windows[kept],
        )


def draw_examples(windows: Windows, draws: npt.NDArray[np.floating[Any]]) -> Examples:
    """Cut each window of two items or more before the item that a number in [0, 1) points at."""
    lengths = np.diff(windows.items.starts)
    asked = np.flatnonzero(lengths > 1)
    place = 1 + (draws[asked] * (lengths[asked] - 1)).astype(np.int64)  # 1 ... length - 1
    starts = starts_of(place)
    begin = windows.items.starts[asked]
    flat = np.arange(starts[-1]) + np.repeat(begin - starts[:-1], place)
    items = Ragged(windows.items.values[flat], starts)
    target = begin + place
    return Examples(
        windows.users[asked],
        items,
        windows.times[flat],
        windows.items.values[target],
        windows.times[target],
        asked,
    )
