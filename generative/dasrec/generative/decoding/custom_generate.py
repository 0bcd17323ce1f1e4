"""The constrained search behind `model.generate`, for scripts that call nothing else.

Shape letters: B users, T prompt tokens, k items asked for, L levels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from dasrec.generative.decoding.filters import Lists, Predicates, Ragged
from dasrec.generative.decoding.head import Normalize
from dasrec.generative.decoding.index import SidIndex
from dasrec.generative.decoding.paths import item_paths
from dasrec.generative.decoding.search import constrained_beam_search


@dataclass
class SidGenerateOutput(ModelOutput):  # type: ignore[misc]  # transformers is untyped here
    """What `sid_generate` returns for `return_dict_in_generate=True`."""

    sequences: Tensor | None = None
    """(B k, T + L) int64: each prompt with the SID of an item; the prompt alone, padded, where
    there are fewer than k items."""
    sequences_scores: Tensor | None = None
    """(B k,) float32 log-probabilities, -inf where there is no item."""
    items: Tensor | None = None
    """(B k,) int64 item indices, -1 where there is none."""


def sid_generate(
    model: Any,
    input_ids: Tensor,
    logits_processor: list[Any],
    stopping_criteria: list[Any],
    generation_config: Any,
    trie: SidIndex,
    normalize: Normalize = "level",
    allowed: Predicates | None = None,
    excluded: Ragged | Tensor | None = None,
    only: Lists | None = None,
    **model_kwargs: Any,
) -> Tensor | SidGenerateOutput:
    """`constrained_beam_search` as a decoding method of transformers.

    Use: `model.generate(**inputs, custom_generate=sid_generate, trie=trie, num_beams=50,
    num_return_sequences=10, max_new_tokens=trie.num_levels, do_sample=False)`. `generate` fills in
    the other arguments. `normalize="full"` gives what its own beam search gives under the same
    constraint, with length_penalty=0.

    Args:
        model: What `generate` was called on.
        input_ids: (B num_beams, T) prompts, repeated by `generate`.
        logits_processor: None may be asked for: they would not be applied.
        stopping_criteria: `generate`'s own; a SID ends by itself.
        generation_config: num_beams and num_return_sequences are read.
        trie: The catalogue.
        normalize: See `constrained_beam_search`, as for the next three.
        allowed: Items that may come.
        excluded: Items that may not come.
        only: Short lists of items that may come.
        model_kwargs: The attention mask is read.

    Returns:
        (B k, T + L) token ids, k = num_return_sequences of each prompt one after another, best
        first; or a `SidGenerateOutput` with `return_dict_in_generate=True`.

    Raises:
        ValueError: Options of `generate` that this search does not have.
    """
    config = generation_config
    _check(config, logits_processor, input_ids.shape[1], trie)
    num_items, repeats = config.num_return_sequences, max(config.num_beams, 1)
    repeats = max(repeats, num_items)
    prompt_BT = input_ids[::repeats].to(model.device)
    mask = model_kwargs.get("attention_mask")  # generate leaves out a mask of ones only
    mask_BT = torch.ones_like(prompt_BT) if mask is None else mask[::repeats].to(model.device)
    found = constrained_beam_search(
        model,
        prompt_BT,
        mask_BT,
        trie,
        num_beams=config.num_beams,
        num_items=num_items,
        normalize=normalize,
        allowed=allowed,
        excluded=excluded,
        only=only,
        certify=False,
    )
    items = found.items.flatten()
    filler = config.pad_token_id if config.pad_token_id is not None else 0
    sids = _tokens(trie.to(items.device), items, filler)
    sequences = torch.cat([prompt_BT.repeat_interleave(num_items, 0), sids], 1)
    if not config.return_dict_in_generate:
        return sequences
    return SidGenerateOutput(sequences, found.scores.flatten(), items)


def _check(config: Any, logits_processor: list[Any], length: int, trie: SidIndex) -> None:
    if config.do_sample:
        raise ValueError("do_sample: a search does not sample; give do_sample=False")
    if logits_processor:
        names = ", ".join(type(processor).__name__ for processor in logits_processor)
        raise ValueError(f"logits_processor: not applied by sid_generate, got {names}; drop them")
    if config.max_length < length + trie.num_levels:
        raise ValueError(
            f"max_new_tokens: a SID has {trie.num_levels} tokens, got room for"
            f" {config.max_length - length}; give max_new_tokens={trie.num_levels}"
        )


def _tokens(trie: SidIndex, item_N: Tensor, filler: int) -> Tensor:
    """(N, L) tokens of the items' SIDs, short ones and missing items filled up."""
    code_NL = item_paths(trie, item_N.clamp(min=0)).code_NL
    columns = []
    for table, code_N in zip(trie.level_token_ids, code_NL.T, strict=True):
        real_N = (code_N < len(table)) & (item_N >= 0)
        columns.append(table[code_N.clamp(max=len(table) - 1)].masked_fill(~real_N, filler))
    return torch.stack(columns, 1)
