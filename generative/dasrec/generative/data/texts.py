"""Texts of the catalogue and of users as tokens of the language model. Shape letters: I items."""

from collections.abc import Sequence
from typing import Any

from dasrec.core import Corpus
from dasrec.core.texts import ITEM_COLUMNS, item_texts, user_texts
from dasrec.generative.data.prompts import PromptConfig
from dasrec.generative.data.tokens import TokenSequences, marked, ragged
from dasrec.generative.model.vocabulary import SidVocabulary

BATCH = 10_000
"""Texts tokenized at a time."""


def catalogue_texts(corpus: Corpus) -> list[str]:
    """(I,) each item's title, or its other text columns; empty where the catalogue has none."""
    columns = corpus.items.columns
    if "title" in columns:
        return item_texts(corpus, ["title"], labels=False).to_list()
    if not set(ITEM_COLUMNS) & set(columns):
        return [""] * corpus.num_items
    return item_texts(corpus, labels=False).to_list()


def encode(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> TokenSequences:
    """The texts as context, cut to `max_tokens` tokens each.

    The tokenizer's own truncation stays off: it would be saved with the tokenizer, and cut every
    prompt of whoever loads it elsewhere.
    """
    rows: list[list[int]] = []
    for first in range(0, len(texts), BATCH):
        batch = list(texts[first : first + BATCH])
        rows += [
            ids[:max_tokens] for ids in tokenizer(batch, add_special_tokens=False)["input_ids"]
        ]
    return ragged(rows)


def user_context(
    prompt: PromptConfig, corpus: Corpus, vocabulary: SidVocabulary, tokenizer: Any
) -> TokenSequences | None:
    """Per user `<|text|>` and the columns `prompt.context` in words; an empty row without any.

    Returns:
        U rows, or None where the prompt format has no context.

    Raises:
        ValueError: a column that the users' table does not have, or a model without text.
    """
    if not prompt.context:
        return None
    where = "generator.pretrain.prompt.context"
    if not vocabulary.has_text:
        raise ValueError(
            f"{where}: the base model has no text tokens (sid_vocabulary_only); leave the context "
            "out or keep the text tokens"
        )
    texts = user_texts(corpus, prompt.context, max_history=0, section=where)
    words = encode(tokenizer, texts.to_list(), prompt.context_tokens)
    return marked(vocabulary.control["<|text|>"], words)
