"""What is asked of a model that was trained with text tasks, written as their rows are.

PROMPT stands for the prompts of next-item requests, `SequenceBuilder.prompts`. Item codes that
follow `<|item|>` are decoded under the trie, so that the answer is a real item; a text is generated
up to `<end>`.

Shape letters: R requests.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dasrec.generative.data.sequences import SequenceBuilder
from dasrec.generative.data.texts import encode
from dasrec.generative.data.tokens import TokenSequences, constant, join, piece

MAX_TOKENS = 64
"""Tokens of a free text at most."""


def render_intention(
    builder: SequenceBuilder, tokenizer: Any, prompts: TokenSequences, texts: Sequence[str]
) -> TokenSequences:
    """`PROMPT <|intention|> words <|item|>`: what is wanted, in free text, after the history.

    Taught by the task `intention_to_item`.

    Args:
        builder: of the model.
        tokenizer: of the model.
        prompts: R prompts, with or without a history.
        texts: (R,) what each request is for.

    Raises:
        ValueError: a text without words.
    """
    words = encode(tokenizer, [text.strip().lower() for text in texts], MAX_TOKENS)
    if not words.lengths.all():
        raise ValueError("intention: the text is empty; say in a few words what is wanted")
    return intention_prompts(builder, prompts, words)


def intention_prompts(
    builder: SequenceBuilder, prompts: TokenSequences, words: TokenSequences
) -> TokenSequences:
    """`PROMPT <|intention|> words <|item|>`, the words given as tokens."""
    control, rows = builder.vocabulary.control, len(prompts.lengths)
    wish = constant(control["<|intention|>"], rows)
    return join(prompts, wish, words, constant(control["<|item|>"], rows))


def explain_prompts(
    builder: SequenceBuilder, prompts: TokenSequences, items: npt.NDArray[np.integer[Any]]
) -> TokenSequences:
    """`PROMPT <|item|> SID <|reason|>`: what an item has in common with the history.

    Taught by the task `explain`.

    Args:
        builder: of the model.
        prompts: R prompts with the user and the history.
        items: (R,) the item of each.
    """
    control, rows = builder.vocabulary.control, len(prompts.lengths)
    item = join(constant(control["<|item|>"], rows), piece(builder.item_tokens[items]))
    return join(prompts, item, constant(control["<|reason|>"], rows))


def title_prompts(builder: SequenceBuilder, items: npt.NDArray[np.integer[Any]]) -> TokenSequences:
    """`<|item|> SID <|text|>`: the text of each of (R,) items. Taught by `item_to_text`."""
    control, rows = builder.vocabulary.control, len(items)
    item = join(constant(control["<|item|>"], rows), piece(builder.item_tokens[items]))
    return join(item, constant(control["<|text|>"], rows))
