"""Corpus and semantic IDs -> token sequences for training and prompts for decoding.

A recommendation sequence is `<|user|> u0 u1 u2  i0 i1 i2 i3  i0 i1 i2 i3 ...`: the user's SID, then
the SIDs of the history, oldest first. Without a user SID it starts with `<|anonymous|>` alone. The
prompt format may add `<|text|>` and words about the user before the first item, and a token `<t_k>`
before each item that tells the time since the one before it.
Every item of a training sequence is a target that conditions on all before it, so one pass over a
sequence teaches what one example per prefix would (transformer attention is causal).

Shape letters: W windows, N items of all rows, L item levels.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset

from dasrec.core import Corpus, Ragged, SemanticIds, generator
from dasrec.generative.data.prompts import (
    TIME_BUCKETS,
    UNKNOWN_TIME,
    PromptConfig,
    time_buckets,
)
from dasrec.generative.data.texts import user_context
from dasrec.generative.data.tokens import TokenSequences, constant, join, piece
from dasrec.generative.model.vocabulary import SidVocabulary

TIMELESS = 0.1
"""Share of training windows whose times are hidden, for requests that come without times."""

_PLAIN = PromptConfig()


class SequenceBuilder:
    """Renders histories as tokens, the same way for training and for prompts."""

    def __init__(
        self,
        sids: SemanticIds,
        vocabulary: SidVocabulary,
        prompt: PromptConfig = _PLAIN,
        context: TokenSequences | None = None,
    ) -> None:
        """Look up the token ids of every item and user once.

        Args:
            sids: of the items and users.
            vocabulary: their tokens.
            prompt: the prompt format of the model.
            context: per user the tokens of its text (`user_context`); needed where the prompt
                format has one. `sequence_builder` makes it.

        Raises:
            ValueError: the vocabulary was built for other SIDs or another prompt format.
        """
        if prompt.time and not vocabulary.time_tokens:
            raise ValueError("the prompt format has time tokens, but the vocabulary has none")
        if prompt.context and context is None:
            raise ValueError("the prompt format has a context; use sequence_builder(...)")
        self.item_tokens = vocabulary.item_tokens(sids)
        self.user_tokens = vocabulary.user_tokens(sids) if prompt.user_sid else None
        self.time_tokens = np.array(vocabulary.time_tokens, np.int64)
        self.vocabulary, self.prompt, self.context = vocabulary, prompt, context

    def render(
        self,
        items: Ragged,
        users: npt.NDArray[np.integer[Any]] | None = None,
        *,
        times: npt.NDArray[np.int64] | None = None,
        user_sid: bool = True,
    ) -> TokenSequences:
        """One sequence per row of `items`; the targets are the items' codes.

        Args:
            items: item indices, oldest first.
            users: (rows,) user index of each row; None renders anonymous users.
            times: (N,) when each item was chosen, in seconds, or `UNKNOWN_TIME`; None knows none.
                Not looked at where the prompt format has no time tokens.
            user_sid: False leaves the users' SIDs out, but not their context.
        """
        return join(*self._start(len(items.starts) - 1, users, user_sid), self._items(items, times))

    def prompts(
        self,
        items: Ragged,
        users: npt.NDArray[np.integer[Any]] | None = None,
        *,
        times: npt.NDArray[np.int64] | None = None,
        now: npt.NDArray[np.int64] | None = None,
        user_sid: bool = True,
    ) -> TokenSequences:
        """What is before the codes of the next item; see `render`.

        Args:
            now: (rows,) time of each request, in seconds; None knows none.
        """
        known = self.render(items, users, times=times, user_sid=user_sid).as_context()
        if not self.prompt.time:
            return known
        rows = len(items.starts) - 1
        last, filled = np.full(rows, UNKNOWN_TIME), np.diff(items.starts) > 0
        if times is not None:
            last[filled] = times[items.starts[1:][filled] - 1]
        unknown = np.full(rows, UNKNOWN_TIME)
        return join(known, self._gaps(last, unknown if now is None else now))

    def _start(
        self, rows: int, users: npt.NDArray[np.integer[Any]] | None, user_sid: bool
    ) -> list[TokenSequences]:
        control = self.vocabulary.control
        if users is None:
            return [constant(control["<|anonymous|>"], rows)]
        if self.user_tokens is None or not user_sid:
            parts = [constant(control["<|anonymous|>"], rows)]
        else:
            parts = [constant(control["<|user|>"], rows), piece(self.user_tokens[users])]
        return parts if self.context is None else [*parts, self.context.take(users)]

    def _items(self, items: Ragged, times: npt.NDArray[np.int64] | None) -> TokenSequences:
        codes = piece(self.item_tokens[items.values]).as_targets()
        if not self.prompt.time:
            return codes.merge(items.starts)
        unknown = np.full(len(items.values), UNKNOWN_TIME)
        times = unknown if times is None else times
        before = np.append(UNKNOWN_TIME, times)[:-1]
        before[items.starts[:-1][np.diff(items.starts) > 0]] = UNKNOWN_TIME
        return join(self._gaps(before, times), codes).merge(items.starts)

    def _gaps(self, before: npt.NDArray[np.int64], after: npt.NDArray[np.int64]) -> TokenSequences:
        known = (before != UNKNOWN_TIME) & (after != UNKNOWN_TIME)
        bucket = np.full(len(before), TIME_BUCKETS)  # the token of unknown gaps is the last
        bucket[known] = time_buckets(after[known] - before[known])
        return piece(self.time_tokens[bucket][:, None])


def sequence_builder(
    prompt: PromptConfig,
    corpus: Corpus,
    sids: SemanticIds,
    vocabulary: SidVocabulary,
    tokenizer: Any,
) -> SequenceBuilder:
    """The builder for a corpus, with the users' context that the prompt format asks for.

    Raises:
        ValueError: a context column that the users' table does not have, or parts that do not
            belong together.
    """
    context = user_context(prompt, corpus, vocabulary, tokenizer)
    return SequenceBuilder(sids, vocabulary, prompt, context)


class Windows(NamedTuple):
    """Pieces of training histories."""

    users: npt.NDArray[np.int64]
    """(W,) user of each window."""
    items: Ragged
    """Items of each window, oldest first."""
    times: npt.NDArray[np.int64]
    """(N,) when each of the items was chosen, seconds."""

    def part(self, first: int, end: int) -> "Windows":
        """Windows `first` to `end` (exclusive)."""
        starts = self.items.starts[first : end + 1]
        flat = slice(starts[0], starts[-1])
        items = Ragged(self.items.values[flat], starts - starts[0])
        return Windows(self.users[first:end], items, self.times[flat])


def training_windows(corpus: Corpus, max_history: int) -> Windows:
    """Cut every user's training items into windows of at most `max_history + 1` items.

    Windows are cut from the end of the sequence, so the last one (the most recent) is full and
    every training item is in exactly one window.
    """
    sequences = corpus.train_sequences
    width = max_history + 1
    lengths = np.diff(sequences.starts)
    windows = -(-lengths // width)
    users = np.repeat(np.arange(corpus.num_users), windows)
    number = np.arange(len(users)) - np.repeat(np.cumsum(windows) - windows, windows)
    # Windows tile the sequence without gaps, so their starts alone say where each one ends.
    begin = np.maximum(sequences.starts[users + 1] - width * (windows[users] - number), 0)
    begin = np.maximum(begin, sequences.starts[users])
    items = Ragged(sequences.values, np.append(begin, len(sequences.values)))
    return Windows(users, items, np.asarray(corpus.timestamp[corpus.train_rows]))


def hide_times(windows: Windows, seed: int) -> Windows:
    """Hide the times of a share `TIMELESS` of the windows."""
    hidden = generator(seed, "timeless").random(len(windows.users)) < TIMELESS
    of_items = np.repeat(hidden, np.diff(windows.items.starts))
    return windows._replace(times=np.where(of_items, UNKNOWN_TIME, windows.times))


def sequence_dataset(corpus: Corpus, builder: SequenceBuilder, *, seed: int = 0) -> Dataset:
    """Training sequences (input_ids, labels) from training interactions only.

    Labels stand on every item's codes; the user, the times and the context are never targets.
    """
    windows = hide_times(training_windows(corpus, builder.prompt.max_history), seed)
    return Dataset(as_table(builder.render(windows.items, windows.users, times=windows.times)))


def as_table(rows: TokenSequences) -> pa.Table:
    """Columns input_ids and labels."""
    offsets = pa.array(rows.starts, pa.int64())
    columns = {
        name: pa.LargeListArray.from_arrays(offsets, pa.array(values, pa.int32()))
        for name, values in (("input_ids", rows.tokens), ("labels", rows.labels))
    }
    return pa.table(columns)
