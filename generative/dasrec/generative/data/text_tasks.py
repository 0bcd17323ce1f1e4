"""The tasks with text: their rows, written out.

    item_to_text         <|item|> SID <|text|> title <end>
    text_to_item         <|text|> title <|item|> SID
    titles_to_item       <|history|> <|text|> title <|text|> title ... <|item|> SID
    history_to_text      PROMPT <|text|> title <end>
    intention_to_item    PROMPT <|intention|> words <|item|> SID
    user_to_preferences  <|preferences|> USER-SID <|text|> words <end>
    explain              PROMPT <|item|> SID <|reason|> words <end>

What comes after the last mark is learned, the rest is context. PROMPT is what next-item prompts
are: user, context, times and SIDs of the history. Histories, preferences and reasons are of
training interactions; titles and words are catalogue content.
"""

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dasrec.core import Corpus, Ragged, generator
from dasrec.generative.data.examples import Examples, draw_examples
from dasrec.generative.data.requests import explain_prompts, intention_prompts
from dasrec.generative.data.sequences import SequenceBuilder, Windows
from dasrec.generative.data.terms import Terms, item_terms
from dasrec.generative.data.texts import catalogue_texts, encode
from dasrec.generative.data.tokens import (
    TokenSequences,
    constant,
    join,
    marked,
    piece,
    starts_of,
)


class TextTasks:
    """Rows of the text tasks for a range of items, users or training windows."""

    def __init__(
        self,
        corpus: Corpus,
        builder: SequenceBuilder,
        tokenizer: Any,
        windows: Windows,
        *,
        max_text_tokens: int,
        max_tokens: int | None,
        seed: int,
    ) -> None:
        """Remember what the rows are made of.

        Args:
            corpus: items and training interactions.
            builder: renders histories.
            tokenizer: of the language model.
            windows: of the training histories.
            max_text_tokens: tokens of a text at most.
            max_tokens: titles of a history are left out, the oldest first, where a row would be
                longer; None leaves none out.
            seed: of what is drawn.
        """
        self.corpus, self.builder, self.tokenizer = corpus, builder, tokenizer
        self.windows, self.seed = windows, seed
        self.max_text_tokens, self.max_tokens = max_text_tokens, max_tokens
        self.control = builder.vocabulary.control

    @cached_property
    def titles(self) -> TokenSequences:
        """I rows: each item's text."""
        return encode(self.tokenizer, catalogue_texts(self.corpus), self.max_text_tokens)

    @cached_property
    def terms(self) -> Terms:
        """Words that stand for the items."""
        return item_terms(self.corpus)

    def item_to_text(self, first: int, end: int) -> TokenSequences:
        """Items `first` to `end`."""
        items = first + np.flatnonzero(self.titles.lengths[first:end])
        known = (self._mark("<|item|>", items), self._sid(items), self._mark("<|text|>", items))
        return join(*known, *self._answer(self.titles.take(items)))

    def text_to_item(self, first: int, end: int) -> TokenSequences:
        """Items `first` to `end`."""
        items = first + np.flatnonzero(self.titles.lengths[first:end])
        known = (self._mark("<|text|>", items), self.titles.take(items))
        return join(*known, self._mark("<|item|>", items), self._sid(items).as_targets())

    def titles_to_item(self, first: int, end: int) -> TokenSequences:
        """Windows `first` to `end`."""
        asked = self._examples("titles_to_item", first, end)
        histories = self._title_histories(asked.items)
        told = np.flatnonzero(histories.lengths)
        targets = asked.targets[told]
        known = (self._mark("<|history|>", told), histories.take(told))
        return join(*known, self._mark("<|item|>", told), self._sid(targets).as_targets())

    def history_to_text(self, first: int, end: int) -> TokenSequences:
        """Windows `first` to `end`."""
        asked = self._examples("history_to_text", first, end)
        asked = asked.keep(self.titles.lengths[asked.targets] > 0)
        known = (asked.prompts(self.builder), self._mark("<|text|>", asked.targets))
        return join(*known, *self._answer(self.titles.take(asked.targets)))

    def intention_after_history(self, first: int, end: int) -> TokenSequences:
        """Windows `first` to `end`: what is wanted now, by somebody with a history."""
        asked = self._examples("intention_to_item", first, end)
        seeds = self._seeds("intention_after_history", len(self.windows.users))
        drawn = self.terms.drawn(asked.targets, seeds[first + asked.windows])
        return self._wanted(asked.prompts(self.builder), drawn, asked.targets)

    def intention_alone(self, first: int, end: int) -> TokenSequences:
        """Items `first` to `end`: the words alone."""
        items = np.arange(first, end)
        nobody = Ragged(np.empty(0, np.int32), np.zeros(len(items) + 1, np.int64))
        seeds = self._seeds("intention_alone", self.corpus.num_items)[first:end]
        return self._wanted(self.builder.prompts(nobody), self.terms.drawn(items, seeds), items)

    def user_to_preferences(self, first: int, end: int) -> TokenSequences:
        """Users `first` to `end`."""
        assert self.builder.user_tokens is not None
        values, starts = self.corpus.train_sequences
        part = Ragged(values[starts[first] : starts[end]], starts[first : end + 1] - starts[first])
        words = self._words(self.terms.preferred(part), ", ")
        told = np.flatnonzero(words.lengths)
        sid = piece(self.builder.user_tokens[first + told])
        known = (self._mark("<|preferences|>", told), sid, self._mark("<|text|>", told))
        return join(*known, *self._answer(words.take(told)))

    def explain(self, first: int, end: int) -> TokenSequences:
        """Windows `first` to `end`; those whose next item shares nothing with what was are out."""
        asked = self._examples("explain", first, end)
        words = self._words(self.terms.shared(asked.items, asked.targets), ", ")
        asked, words = asked.keep(words.lengths > 0), words.take(np.flatnonzero(words.lengths))
        known = explain_prompts(self.builder, asked.prompts(self.builder), asked.targets)
        return join(known, *self._answer(words))

    def _examples(self, task: str, first: int, end: int) -> Examples:
        draws = generator(self.seed, "task", task).random(len(self.windows.users))
        return draw_examples(self.windows.part(first, end), draws[first:end])

    def _seeds(self, task: str, rows: int) -> npt.NDArray[np.uint64]:
        """(rows,) one number per row, whatever the range that is asked for."""
        return generator(self.seed, "words", task).integers(0, 2**63, rows).astype(np.uint64)

    def _mark(self, name: str, rows: npt.NDArray[Any]) -> TokenSequences:
        return constant(self.control[name], len(rows))

    def _sid(self, items: npt.NDArray[np.integer[Any]]) -> TokenSequences:
        return piece(self.builder.item_tokens[items])

    def _answer(self, texts: TokenSequences) -> tuple[TokenSequences, TokenSequences]:
        end = constant(self.tokenizer.eos_token_id, len(texts.lengths))
        return texts.as_targets(), end.as_targets()

    def _words(self, terms: Ragged, separator: str) -> TokenSequences:
        return encode(self.tokenizer, self.terms.texts(terms, separator), self.max_text_tokens)

    def _wanted(
        self, prompts: TokenSequences, terms: Ragged, items: npt.NDArray[np.integer[Any]]
    ) -> TokenSequences:
        told = np.flatnonzero(np.diff(terms.starts))
        words = self._words(terms, " ").take(told)
        known = intention_prompts(self.builder, prompts.take(told), words)
        return join(known, self._sid(items[told]).as_targets())

    def _title_histories(self, items: Ragged) -> TokenSequences:
        """Per row `<|text|> title` of its items, the most recent ones that fit."""
        each = marked(self.control["<|text|>"], self.titles).take(items.values)
        if self.max_tokens is None:
            return each.merge(items.starts)
        room = self.max_tokens - 2 - self.builder.item_tokens.shape[1]
        row = np.repeat(np.arange(len(items.starts) - 1), np.diff(items.starts))
        fits = each.starts[items.starts[1:]][row] - each.starts[:-1] <= room
        counts = np.bincount(row[fits], minlength=len(items.starts) - 1)
        return each.take(np.flatnonzero(fits)).merge(starts_of(counts))
