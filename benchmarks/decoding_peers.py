"""The ways to generate items that `benchmarks.decoding` compares.

The peers are written here in the form published code has: a Python trie behind
`prefix_allowed_tokens_fn`, nested dicts as GENRE and LETTER hold it or a dict from prefix strings
as MiniOneRec does.

Shape letters: B prompts, T their tokens, W beams, L levels, I items.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from benchmarks.decoding_world import Case, Catalogue, catalogue, model_of, prompts
from torch import Tensor
from transformers import DynamicCache, LogitsProcessorList

from dasrec.generative import (
    LevelHead,
    SidTrieLogitsProcessor,
    constrained_beam_search,
)

OURS = ("full", "level", "trie")
"""Ours by what a code's probability is normalised over."""
PEERS = {
    "nested": "generate + prefix_allowed_tokens_fn over nested dicts",
    "strings": "generate + prefix_allowed_tokens_fn over a dict of prefix strings",
    "free": "generate without a constraint",
    "reused": "prompt computed once, its cache repeated per beam, generate + our logits processor",
    "floor": "forwards of prompt and beams alone: no output layer, no constraint, no top-k",
}

STOCK = ("nested", "reused")
"""Peers of the growth tables: the usual way and the best one."""

Contender = Callable[[Tensor, Tensor], Any]
"""Gives the lists of (B, T) prompts and their mask."""
Allowed = Callable[[int, Tensor], list[int]]


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be solved."""

    model: Any
    catalogue: Catalogue
    beams: int
    input_ids: Tensor
    mask: Tensor


def problem_of(case: Case, seed: int = 0) -> Problem:
    """The model, items and prompts of a case."""
    items = catalogue(case.items, case.codes, case.text_tokens)
    model = model_of(case.codes, case.text_tokens, case.width, case.layers)
    return Problem(model, items, case.beams, *prompts(case, items.token_IL, seed))


def contender(problem: Problem, name: str, **options: Any) -> Contender:
    """One of OURS or PEERS; what serves many requests is made here.

    Args:
        problem: its model, items, beams and length of prompts.
        name: which.
        options: of `constrained_beam_search` or of `generate`.
    """
    model, trie, beams = problem.model, problem.catalogue.trie, problem.beams
    if name in OURS:
        fixed: dict[str, Any] = {
            "num_beams": beams,
            "num_items": beams,
            "certify": False,
            "normalize": name,
        }
        fixed["head"] = LevelHead(model, trie.level_token_ids)
        return lambda ids, mask: constrained_beam_search(
            model, ids, mask, trie, **(fixed | options)
        )
    if name == "floor":
        return lambda ids, mask: forwards(model, ids, beams, trie.num_levels)
    options = {"num_beams": beams, "max_new_tokens": trie.num_levels, **options}
    if name == "free":
        return lambda ids, mask: generate(model, ids, mask, **options)
    if name == "reused":
        processor: Any = SidTrieLogitsProcessor(trie, problem.input_ids.shape[1])
        options["logits_processor"] = LogitsProcessorList([processor])
        return lambda ids, mask: generate(
            model, ids, mask, past_key_values=repeated_prompt(model, ids, mask, beams), **options
        )
    options["prefix_allowed_tokens_fn"] = callback(problem, name)
    return lambda ids, mask: generate(model, ids, mask, **options)


def generate(model: Any, input_ids: Tensor, mask: Tensor, **options: Any) -> Any:
    """(B W, T + L) sequences; with `return_dict_in_generate` what `generate` gives then."""
    with torch.inference_mode():
        return model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            num_return_sequences=options["num_beams"],
            do_sample=False,
            length_penalty=0.0,  # the score of a sequence is the sum of its log-probabilities
            pad_token_id=0,
            **options,
        )


def repeated_prompt(model: Any, input_ids: Tensor, mask: Tensor, beams: int) -> DynamicCache:
    """Keys and values of all but the last prompt token, one copy per beam."""
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model.get_decoder()(
            input_ids=input_ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, :-1],
            past_key_values=cache,
            use_cache=True,
        )
        cache.batch_repeat_interleave(beams)
    return cache


def forwards(model: Any, input_ids: Tensor, beams: int, levels: int) -> None:
    """The tokens that any search must run: the prompt once, then W beams per further level."""
    cache = DynamicCache()
    batch, prompt = input_ids.shape
    body = model.get_decoder()
    with torch.inference_mode():
        body(input_ids=input_ids, past_key_values=cache, use_cache=True)
        for step in range(levels - 1):
            body(
                input_ids=input_ids[:, -1:].expand(-1, beams),
                attention_mask=torch.zeros(batch, 1, beams, prompt + (step + 1) * beams),
                position_ids=torch.full((batch, beams), prompt + step),
                past_key_values=cache,
                use_cache=True,
            )


def callback(problem: Problem, name: str) -> Allowed:
    """The constraint of `generate` over a Python trie: "nested" or "strings"."""
    tries, prompt = problem.catalogue.python_tries, problem.input_ids.shape[1]
    if name not in tries:
        tries[name] = PYTHON_TRIES[name](problem.catalogue.token_IL.tolist())
    table = tries[name]

    def in_dicts(batch_id: int, ids: Tensor) -> list[int]:
        node = table
        for token in ids[prompt:].tolist():
            node = node.get(token, {})
        return list(node)

    def by_string(batch_id: int, ids: Tensor) -> list[int]:
        found: list[int] = table.get("-".join(map(str, ids[prompt:].tolist())), [])
        return found

    return in_dicts if name == "nested" else by_string


def nested_trie(tokens: Iterable[list[int]]) -> dict[int, Any]:
    """token -> the same again, one level deeper."""
    root: dict[int, Any] = {}
    for row in tokens:
        node = root
        for token in row:
            node = node.setdefault(token, {})
    return root


def prefix_strings(tokens: Iterable[list[int]]) -> dict[str, list[int]]:
    """ "id-id-id" -> the tokens that may follow."""
    following: dict[str, set[int]] = {}
    for row in tokens:
        for level, token in enumerate(row):
            following.setdefault("-".join(map(str, row[:level])), set()).add(token)
    return {prefix: list(found) for prefix, found in following.items()}


PYTHON_TRIES: dict[str, Callable[[Iterable[list[int]]], dict[Any, Any]]] = {
    "nested": nested_trie,
    "strings": prefix_strings,
}
