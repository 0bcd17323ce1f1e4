"""Why an item is in a list: history items with a semantic ID like its own, and words of the model.

Shape letters: R recommended items, H items of the history, L levels, T tokens.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from dasrec.core import SemanticIds
from dasrec.generative.data.requests import explain_prompts, title_prompts
from dasrec.generative.data.sequences import SequenceBuilder
from dasrec.generative.data.tokens import TokenSequences
from dasrec.generative.model.load import Generator
from dasrec.generative.model.vocabulary import SidVocabulary

Ints = npt.NDArray[np.integer[Any]]


class Relatives(NamedTuple):
    """The items of a history that are nearest to a recommended item."""

    levels: int
    """Leading levels of the semantic ID that they share with it; 0 where none shares any."""
    places: list[int]
    """Their places in the history, oldest first."""


def shared_levels(codes_RL: Ints, codes_HL: Ints) -> npt.NDArray[np.int64]:
    """(R, H) how many leading levels two semantic IDs have in common."""
    same_RHL = codes_RL[:, None, :] == codes_HL[None, :, :]
    counts: npt.NDArray[np.int64] = np.logical_and.accumulate(same_RHL, axis=2).sum(axis=2)
    return counts


def relatives(codes_RL: Ints, codes_HL: Ints) -> list[Relatives]:
    """Per recommended item the history items that share the longest start of its semantic ID.

    Args:
        codes_RL: of the recommended items.
        codes_HL: of the history, oldest first.
    """
    levels_RH = shared_levels(codes_RL, codes_HL)
    most_R = levels_RH.max(axis=1, initial=0)
    return [
        Relatives(int(most), np.flatnonzero(levels == most).tolist() if most else [])
        for most, levels in zip(most_R, levels_RH, strict=True)
    ]


class Explanation(NamedTuple):
    """What is said about a recommended item."""

    relatives: Relatives
    written_title: str
    """The item's text as the model writes it from its semantic ID; "" from a model that was not
    taught to (task `item_to_text`)."""
    reason: str
    """What it has in common with the history, in the model's words; "" from a model that was not
    taught to (task `explain`)."""


def explain_items(
    generator: Generator,
    builder: SequenceBuilder,
    sids: SemanticIds,
    prompt: TokenSequences,
    items_R: Ints,
    history_H: Ints,
    tasks: Collection[str],
) -> list[Explanation]:
    """Explain each item of a list.

    Args:
        generator: that made the list.
        builder: that rendered the prompt.
        sids: of the catalogue.
        prompt: one row, the user and the history.
        items_R: the list.
        history_H: oldest first.
        tasks: that the generator was trained with.
    """
    if not len(items_R):
        return []
    codes = np.asarray(sids.items.codes)
    titles = reasons = [""] * len(items_R)
    parts = generator.model, generator.tokenizer, generator.vocabulary
    if "item_to_text" in tasks:
        titles = write_texts(*parts, title_prompts(builder, items_R))
    if "explain" in tasks and len(history_H):
        prompts = prompt.take(np.zeros(len(items_R), np.int64))
        reasons = write_texts(*parts, explain_prompts(builder, prompts, items_R))
    like = relatives(codes[items_R], codes[history_H])
    return [Explanation(*row) for row in zip(like, titles, reasons, strict=True)]


@torch.no_grad()
def write_texts(
    model: Any,
    tokenizer: Any,
    vocabulary: SidVocabulary,
    prompts: TokenSequences,
    *,
    max_tokens: int = 32,
) -> list[str]:
    """What the model writes after each prompt, taking the most probable text token every time.

    Args:
        model: a causal LM that was trained with the text task of the prompts.
        tokenizer: of the model.
        vocabulary: its semantic-ID and control tokens, which no text holds.
        prompts: one per text; run as one batch.
        max_tokens: tokens of a text at most; fewer where the model has no positions for them.
    """
    width = int(prompts.lengths.max())
    place_T = np.arange(width) - (width - prompts.lengths[:, None])  # padded on the left
    real = place_T >= 0
    ids = np.full(real.shape, tokenizer.pad_token_id, np.int64)
    ids[real] = prompts.tokens[(prompts.starts[:-1, None] + place_T)[real]]
    device = model.get_input_embeddings().weight.device
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = max_tokens if limit is None else min(max_tokens, limit - width)
    never = {*vocabulary.new_token_ids, *(model.generation_config.suppress_tokens or ())}
    written = model.generate(
        input_ids=torch.from_numpy(ids).to(device),
        attention_mask=torch.from_numpy(real.astype(np.int64)).to(device),
        max_new_tokens=room,
        do_sample=False,
        suppress_tokens=sorted(never),
    )
    texts: list[str] = tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)
    return [text.strip() for text in texts]
