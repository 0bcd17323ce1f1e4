"""Beam search over the items of an index, for many users at once.

Shape letters: B users, T prompt tokens, W beams, N candidates (children of a user's beams, padded),
k items asked for, L levels, Q ranges of places per node, M places per leaf (padded).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dasrec.generative.decoding.beams import Beams, CacheKind, Mode, start_beams
from dasrec.generative.decoding.candidates import (
    NEVER,
    Candidates,
    Frontier,
    extend,
    ranking_key,
    root,
)
from dasrec.generative.decoding.filters import ItemFilter, Lists, Predicates, Ragged
from dasrec.generative.decoding.head import LevelHead, Normalize
from dasrec.generative.decoding.index import SidIndex
from dasrec.generative.decoding.laps import Laps
from dasrec.generative.decoding.leaves import expand_leaves
from dasrec.generative.decoding.prefix_cache import PromptPrefix
from dasrec.generative.decoding.prompts import check_length, check_prompts
from dasrec.generative.decoding.widths import beam_widths, per_user


class SearchResult(NamedTuple):
    """Ranked items of B users; k is the most that any of them asked for."""

    items: Tensor
    """(B, k) int64 item indices, best first, -1 where there are fewer."""
    scores: Tensor
    """(B, k) float32 log-probabilities, not increasing; -inf where there is no item."""
    num_valid: Tensor
    """(B,) int64 how many of the k are real."""
    exact_prefix: Tensor
    """(B,) int64: that many first items are proven to be what scoring every item would give."""


@torch.no_grad()
def constrained_beam_search(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    trie: SidIndex,
    *,
    num_beams: int | Sequence[int] | Tensor,
    num_items: int | Sequence[int] | Tensor,
    normalize: Normalize = "level",
    widths: Sequence[int] | None = None,
    allowed: Predicates | None = None,
    excluded: Ragged | Tensor | None = None,
    only: Lists | None = None,
    certify: bool = True,
    mode: Mode = "auto",
    cache: CacheKind = "dynamic",
    prefix: PromptPrefix | None = None,
    head: LevelHead | None = None,
    timings: dict[str, float] | None = None,
) -> SearchResult:
    """The items whose semantic IDs the model finds most probable after each prompt.

    Only existing, allowed items are returned, and `num_items` of them wherever there are as many.
    If the beams are at least as many as the prefixes of every level, the search is exhaustive.
    With `normalize="full"` it finds what `generate(num_beams=...)` with the same constraint finds,
    at one prompt pass per user instead of one per beam. Equal scores go to the lower SID. A user's
    result does not depend on the others of the batch, but for the rounding of the model's own
    matrix products.

    Args:
        model: A causal LM of transformers, plain or wrapped by PEFT, in eval mode.
        input_ids: (B, T) prompts, padded on the left.
        attention_mask: (B, T) 1 at real tokens.
        trie: The catalogue; moved to the model's device if it lies elsewhere.
        num_beams: Beams kept per level, of all users or of each; raised to its `num_items` where
            lower.
        num_items: k, of all users or of each, counted in items (a semantic ID may have several).
        normalize: What a code's probability is over, see `Normalize`.
        widths: Beams per level in place of `num_beams`, e.g. fewer at the first level.
        allowed: What to choose from, see `ItemFilter`: a predicate, one per user, or bool masks.
        excluded: Per user item indices never to return: B sequences, or (B, E) padded by -1.
        only: Per user the only item indices to return, in the same forms; None for no such list.
        certify: Fill `exact_prefix` (else 0).
        mode: "tree", "expand", or "auto" by what the model supports (see `beams`).
        cache: "static" writes keys and values into memory taken at the start.
        prefix: What comes before every prompt, read once; see `PromptPrefix`.
        head: `LevelHead(model, trie.level_token_ids)`, to make it once for many batches.
        timings: Takes the seconds of "prefill" (the prompts), "body" (the beams), "head" and
            "constraint" (trie, filters, choice of beams), added to what is there.

    Raises:
        ValueError: Options that do not fit each other, the trie or the model.
    """
    check_prompts(input_ids, attention_mask)
    laps = Laps(timings, input_ids.device)
    trie = trie.to(input_ids.device)
    num_items_B = per_user("num_items", num_items, len(input_ids))
    num_beams_B = per_user("num_beams", num_beams, len(input_ids))
    level_widths = beam_widths(num_items_B, num_beams_B, widths, trie.num_levels)
    filter_ = ItemFilter(trie, len(input_ids), allowed, excluded, only)
    laps.lap("constraint")
    head = head or LevelHead(model, trie.level_token_ids)
    laps.lap("head")
    shared = 0 if prefix is None else len(prefix)
    check_length(head, shared + input_ids.shape[1] + trie.num_levels - 1)
    num_slots = sum(int(width_B.max()) for width_B in level_widths[:-1])
    beams = start_beams(
        head, input_ids, attention_mask, mode, cache=cache, num_slots=num_slots, prefix=prefix
    )
    frontier, pruned_B = _search(beams, head, trie, filter_, level_widths, normalize, laps)
    items, scores = expand_leaves(trie, filter_, frontier, num_items_B)
    num_valid = (items >= 0).sum(1)
    proven = (scores > pruned_B.unsqueeze(1)).sum(1) if certify else num_valid * 0
    laps.lap("constraint")
    return SearchResult(items, scores, num_valid, proven)


def _search(
    beams: Beams,
    head: LevelHead,
    index: SidIndex,
    filter_: ItemFilter,
    level_widths: Sequence[Tensor],
    normalize: Normalize,
    laps: Laps,
) -> tuple[Frontier, Tensor]:
    """The leaves found, best first, and (B,) the best score of any candidate dropped."""
    states = beams.prefill()
    laps.lap("prefill")
    frontier = root(len(states), states.device)
    pruned_B = torch.full_like(frontier.score[:, 0], NEVER)
    for level, width_B in enumerate(level_widths):
        if level:
            live_BW = _live(index, filter_, frontier, level - 1, normalize)
            states = beams.advance(frontier.token, frontier.parent, live_BW)
            laps.lap("body")
        candidates = extend(states, head, index, filter_, frontier, level, normalize, laps)
        frontier, dropped_B = keep_best(candidates, index, level, width_B)
        pruned_B = torch.maximum(pruned_B, dropped_B)
        laps.lap("constraint")
    return frontier, pruned_B


def _live(
    index: SidIndex, filter_: ItemFilter, frontier: Frontier, level: int, normalize: Normalize
) -> Tensor | None:
    """(B, W) beams whose states matter; None for all of them.

    The rest have nothing left to choose: below a node with a single allowed item every code of the
    normaliser "trie" has probability 1, and so has what follows a short SID.
    """
    if normalize == "trie":
        return (filter_.count(level, frontier.node) > 1) & (frontier.score > NEVER)
    if index.level_padded[level]:
        return ~frontier.ended & (frontier.score > NEVER)
    return None


def keep_best(
    candidates: Candidates, index: SidIndex, level: int, width_B: Tensor
) -> tuple[Frontier, Tensor]:
    """Each user's best `width_B` candidates, best first, and (B,) the best score of the others.

    `width_B` is read by the host: leave it on the CPU.
    """
    key_C = ranking_key(candidates.score_C, candidates.order_C)
    key_BN = candidates.padded(key_C, torch.iinfo(torch.int64).min)
    most = int(width_B.max())
    width_B1 = width_B.unsqueeze(1).to(key_BN.device)
    found = candidates.take(index, level, key_BN.topk(min(most + 1, key_BN.shape[1])).indices)
    column_V = torch.arange(found.score.shape[1], device=key_BN.device)
    score_BV = found.score.masked_fill(column_V != width_B1, NEVER)
    kept_BV = found.score.masked_fill(column_V >= width_B1, NEVER)
    frontier = found._replace(score=kept_BV)
    return Frontier(*(values[:, :most] for values in frontier)), score_BV.max(1).values
