"""A language model without its text tokens."""

from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from dasrec.core import SemanticIds
from dasrec.generative.model.text_tokenizer import empty_tokenizer
from dasrec.generative.model.vocabulary import SidVocabulary, add_sid_tokens


@torch.no_grad()
def cut_to_sids(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: SidVocabulary,
    sids: SemanticIds,
    multiple: int,
) -> tuple[PreTrainedTokenizerBase, SidVocabulary]:
    """Drop the rows of all text tokens of a model whose new rows are set.

    Two text rows stay, those of padding and of the end of a text, as ids 0 and 1.

    Args:
        model: changed in place.
        tokenizer: its tokenizer so far.
        vocabulary: its SID tokens so far.
        sids: what the tokens stand for.
        multiple: pad the rows to a multiple of this.

    Returns:
        The tokenizer without text, and the vocabulary with its ids.
    """
    small = empty_tokenizer()
    cut = add_sid_tokens(small, sids, has_text=False, has_time=bool(vocabulary.time_tokens))
    kept = [tokenizer.pad_token_id, tokenizer.eos_token_id, *vocabulary.new_token_ids]
    ids = [small.pad_token_id, small.eos_token_id, *cut.new_token_ids]
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    parts = [embedding.weight, output.weight, getattr(output, "bias", None)]
    rows = [None if part is None else part[kept].clone() for part in parts]
    model.resize_token_embeddings(len(small), pad_to_multiple_of=multiple, mean_resizing=False)
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    for part, values in zip(
        (embedding.weight, output.weight, getattr(output, "bias", None)), rows, strict=True
    ):
        if part is not None and values is not None:
            part[len(small) :] = values.float().mean(0).to(part.dtype)
            part[ids] = values
    settings = model.config.get_text_config()
    settings.bos_token_id = None
    settings.pad_token_id, settings.eos_token_id = small.pad_token_id, small.eos_token_id
    if embedding.padding_idx is not None:  # that row has no gradient
        embedding.padding_idx = small.pad_token_id
    return small, cut
