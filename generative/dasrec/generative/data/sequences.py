"""Corpus and semantic IDs -> token sequences for training and prompts for decoding.

A recommendation sequence is `<|user|> u0 u1 u2  i0 i1 i2 i3  i0 i1 i2 i3 ...`: the user's SID, then
the SIDs of the history, oldest first. Without a user SID it starts with `<|anonymous|>` alone.
Every item of a training sequence is a target that conditions on all before it, so one pass over a
sequence teaches what one example per prefix would (transformer attention is causal).

Shape letters: W windows, Q queries, L item levels, P prefix tokens.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset

from dasrec.core import Corpus, Ragged, SemanticIds
from dasrec.core.texts import ITEM_COLUMNS, item_texts
from dasrec.generative.model.vocabulary import SidVocabulary

IGNORE = -100
"""Label of a position without loss (the convention of transformers)."""


class TokenSequences(NamedTuple):
    """Token sequences of different lengths in one flat array."""

    tokens: npt.NDArray[np.int64]
    """(total,)"""
    starts: npt.NDArray[np.int64]
    """(rows + 1,) sequence r is `tokens[starts[r]:starts[r + 1]]`."""
    prefix_length: int
    """P, tokens before the first item."""

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(rows,) tokens per sequence."""
        return np.diff(self.starts)


class SequenceBuilder:
    """Renders histories as tokens, the same way for training and for prompts."""

    def __init__(self, sids: SemanticIds, vocabulary: SidVocabulary) -> None:
        """Look up the token ids of every item and user once.

        Raises:
            ValueError: the vocabulary was built for other SIDs.
        """
        self.item_tokens = vocabulary.item_tokens(sids)
        self.user_tokens = vocabulary.user_tokens(sids)
        self.vocabulary = vocabulary

    def render(
        self, items: Ragged, users: npt.NDArray[np.integer[Any]] | None = None
    ) -> TokenSequences:
        """One sequence per row of `items`.

        Args:
            items: item indices, oldest first.
            users: (rows,) user index of each row; None renders anonymous users.
        """
        prefix = self._prefix(len(items.starts) - 1, users)
        num_prefix, num_levels = prefix.shape[1], self.item_tokens.shape[1]
        counts = np.diff(items.starts)
        starts = np.concatenate([[0], np.cumsum(num_prefix + num_levels * counts)])
        tokens = np.empty(starts[-1], np.int64)
        tokens[starts[:-1, None] + np.arange(num_prefix)] = prefix
        place = np.arange(len(items.values)) - np.repeat(items.starts[:-1], counts)
        first = np.repeat(starts[:-1] + num_prefix, counts) + num_levels * place
        tokens[first[:, None] + np.arange(num_levels)] = self.item_tokens[items.values]
        return TokenSequences(tokens, starts, num_prefix)

    def _prefix(
        self, rows: int, users: npt.NDArray[np.integer[Any]] | None
    ) -> npt.NDArray[np.int64]:
        control = self.vocabulary.control
        if users is None or self.user_tokens is None:
            return np.full((rows, 1), control["<|anonymous|>"], np.int64)
        start = np.full((rows, 1), control["<|user|>"], np.int64)
        return np.concatenate([start, self.user_tokens[users]], axis=1)


def training_windows(corpus: Corpus, max_history: int) -> tuple[npt.NDArray[np.int64], Ragged]:
    """Cut every user's training items into windows of at most `max_history + 1` items.

    Windows are cut from the end of the sequence, so the last one (the most recent) is full and
    every training item is in exactly one window.

    Returns:
        (W,) user index of each window, and the items of each window.
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
    return users, Ragged(sequences.values, np.append(begin, len(sequences.values)))


def sequence_dataset(corpus: Corpus, builder: SequenceBuilder, max_history: int) -> Dataset:
    """Training sequences (input_ids, labels) from training interactions only.

    Labels stand on every item token; the user's SID is context, never a target.
    """
    users, windows = training_windows(corpus, max_history)
    rendered = builder.render(windows, users)
    labels = rendered.tokens.copy()
    labels[rendered.starts[:-1, None] + np.arange(rendered.prefix_length)] = IGNORE
    return _dataset(rendered.tokens, labels, rendered.starts)


def catalogue_texts(corpus: Corpus) -> list[str]:
    """(I,) each item's title, or its other text columns; empty where the catalogue has none."""
    columns = corpus.items.columns
    if "title" in columns:
        return item_texts(corpus, ["title"], labels=False).to_list()
    if not set(ITEM_COLUMNS) & set(columns):
        return [""] * corpus.num_items
    return item_texts(corpus, labels=False).to_list()


def text_dataset(
    corpus: Corpus, builder: SequenceBuilder, tokenizer: Any, max_text_tokens: int
) -> Dataset:
    """Item text <-> SID pairs: `<|item|> SID <|text|> title <end>` and the reverse, per item.

    The text is the item's title, or all its text columns; catalogue content, no interactions.
    """
    texts = catalogue_texts(corpus)
    encoded = tokenizer(
        texts, add_special_tokens=False, truncation=True, max_length=max_text_tokens
    )["input_ids"]
    control = builder.vocabulary.control
    item, text, end = control["<|item|>"], control["<|text|>"], tokenizer.eos_token_id
    sid_length = builder.item_tokens.shape[1]
    rows: list[list[int]] = []
    labels: list[list[int]] = []
    for sid, words in zip(builder.item_tokens.tolist(), encoded, strict=True):
        if not words:
            continue
        rows.append([item, *sid, text, *words, end])
        labels.append([IGNORE] * (sid_length + 2) + [*words, end])
        rows.append([text, *words, item, *sid])
        labels.append([IGNORE] * (len(words) + 2) + sid)
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return _dataset(
        np.concatenate(rows) if rows else np.empty(0, np.int64),
        np.concatenate(labels) if labels else np.empty(0, np.int64),
        starts,
    )


def _dataset(
    tokens: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]
) -> Dataset:
    offsets = pa.array(starts, pa.int64())
    columns = {
        name: pa.LargeListArray.from_arrays(offsets, pa.array(values, pa.int32()))
        for name, values in (("input_ids", tokens), ("labels", labels))
    }
    return Dataset(pa.table(columns))
