"""Token sequences of different lengths, put together piece by piece without a loop over rows.

Shape letters: R rows, S tokens of a piece that is equally long in every row.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from dasrec.core import Ragged

IGNORE = -100
"""Label of a position without loss (the convention of transformers)."""


class TokenSequences(NamedTuple):
    """Token sequences of different lengths in one flat array."""

    tokens: npt.NDArray[np.int64]
    """(total,)"""
    starts: npt.NDArray[np.int64]
    """(rows + 1,) sequence r is `tokens[starts[r]:starts[r + 1]]`."""
    targets: npt.NDArray[np.bool_]
    """(total,) whether a token is to be learned; the others are context."""

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(rows,) tokens per sequence."""
        return np.diff(self.starts)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """(total,) the token where it is a target, else `IGNORE`."""
        return np.where(self.targets, self.tokens, IGNORE)

    def as_context(self) -> Self:
        """The same without targets."""
        return self._replace(targets=np.zeros_like(self.targets))

    def as_targets(self) -> Self:
        """The same with every token a target."""
        return self._replace(targets=np.ones_like(self.targets))

    def take(self, rows: npt.NDArray[np.integer[Any]]) -> "TokenSequences":
        """Some rows, in the order given; a row may be taken more than once."""
        lengths = self.lengths[rows]
        starts = starts_of(lengths)
        flat = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], lengths)
        return TokenSequences(self.tokens[flat], starts, self.targets[flat])

    def merge(self, starts: npt.NDArray[np.integer[Any]]) -> "TokenSequences":
        """Neighbouring rows as one: row r of the result is rows `starts[r]:starts[r + 1]`."""
        return self._replace(starts=self.starts[starts])


def starts_of(lengths: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """(rows + 1,) where rows of these lengths start in one flat array."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def take_rows(rows: Ragged, kept: npt.NDArray[np.integer[Any]]) -> Ragged:
    """Some rows of a ragged array, in the order given."""
    lengths = np.diff(rows.starts)[kept]
    starts = starts_of(lengths)
    flat = np.arange(starts[-1]) + np.repeat(rows.starts[kept] - starts[:-1], lengths)
    return Ragged(rows.values[flat], starts)


def piece(tokens_RS: npt.NDArray[np.integer[Any]]) -> TokenSequences:
    """Equally many tokens in every row, as context."""
    rows, size = tokens_RS.shape
    tokens = tokens_RS.astype(np.int64, copy=False).reshape(-1)
    return TokenSequences(tokens, np.arange(rows + 1) * size, np.zeros(len(tokens), np.bool_))


def constant(token: int, rows: int) -> TokenSequences:
    """One and the same token in every row, as context."""
    return piece(np.full((rows, 1), token, np.int64))


def ragged(rows: Sequence[Sequence[int]]) -> TokenSequences:
    """Rows as a text tokenizer returns them, as context."""
    starts = starts_of(np.fromiter(map(len, rows), np.int64, len(rows)))
    tokens = np.fromiter((token for row in rows for token in row), np.int64, starts[-1])
    return TokenSequences(tokens, starts, np.zeros(len(tokens), np.bool_))


def join(*pieces: TokenSequences) -> TokenSequences:
    """Row r of the result is row r of every piece, one after the other."""
    starts = starts_of(np.sum([part.lengths for part in pieces], axis=0))
    tokens = np.empty(starts[-1], np.int64)
    targets = np.empty(starts[-1], np.bool_)
    place = starts[:-1].copy()
    for part in pieces:
        at = np.arange(len(part.tokens)) + np.repeat(place - part.starts[:-1], part.lengths)
        tokens[at], targets[at] = part.tokens, part.targets
        place += part.lengths
    return TokenSequences(tokens, starts, targets)


def marked(token: int, rows: TokenSequences) -> TokenSequences:
    """`token` before every row that is not empty."""
    filled = np.flatnonzero(rows.lengths)
    told = join(constant(token, len(filled)), rows.take(filled))
    return told.merge(np.searchsorted(filled, np.arange(len(rows.starts))))
