"""Beam search over the items of a trie, for many users at once.

Shape letters: B users, T prompt tokens, W beams, C candidates (children of the beams, padded),
k items asked for, L levels, X the width of `LevelHead.states`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dasrec.generative.decoding.beams import Beams, Mode, check_length, check_prompts, start_beams
from dasrec.generative.decoding.filters import ItemFilter, Ragged
from dasrec.generative.decoding.head import LevelHead, Normalize
from dasrec.generative.decoding.trie import SidTrie

_NEVER = float("-inf")


class SearchResult(NamedTuple):
    """Ranked items of B users."""

    items: Tensor
    """(B, k) int64 item indices, best first, -1 where there are fewer."""
    scores: Tensor
    """(B, k) float32 log-probabilities, not increasing; -inf where there is no item."""
    num_valid: Tensor
    """(B,) int64 how many of the k are real."""
    exact_prefix: Tensor
    """(B,) int64: that many first items are proven to be what scoring every item would give."""


class _Frontier(NamedTuple):
    """The beams after one level; a beam with score -inf is padding."""

    node: Tensor
    """(B, W)"""
    score: Tensor
    """(B, W) float32"""
    token: Tensor
    """(B, W) vocabulary id of the node's code"""
    parent: Tensor
    """(B, W) index of the beam it came from"""
    pruned: Tensor
    """(B,) best score of any candidate dropped so far"""


@torch.no_grad()
def constrained_beam_search(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    trie: SidTrie,
    *,
    num_beams: int,
    num_items: int,
    normalize: Normalize = "level",
    allowed_items: Tensor | None = None,
    excluded_items: Ragged | Tensor | None = None,
    certify: bool = True,
    widths: Sequence[int] | None = None,
    mode: Mode = "auto",
    head: LevelHead | None = None,
) -> SearchResult:
    """The items whose semantic IDs the model finds most probable after each prompt.

    Only existing, allowed items are returned, and `num_items` of them wherever there are as many.
    If the beams are at least as many as the prefixes of every level, the search is exhaustive.
    With `normalize="full"` it finds what `generate(num_beams=...)` with the same constraint finds,
    at one prompt pass per user instead of one per beam. Equal scores go to the lower SID.

    Args:
        model: A causal LM of transformers, plain or wrapped by PEFT, in eval mode.
        input_ids: (B, T) prompts, padded on the left.
        attention_mask: (B, T) 1 at real tokens.
        trie: The catalogue; moved to the model's device if it lies elsewhere.
        num_beams: Beams kept per level; raised to `num_items` where lower.
        num_items: k, counted in items (a semantic ID may have several).
        normalize: What a code's probability is over, see `Normalize`.
        allowed_items: bool (I,) or (B, I).
        excluded_items: Per user item indices never to return: B sequences, or (B, E) padded by -1.
        certify: Fill `exact_prefix` (else 0).
        widths: Beams per level in place of `num_beams`, e.g. fewer at the first level.
        mode: "tree", "expand", or "auto" by what the model supports (see `beams`).
        head: `LevelHead(model, trie.level_token_ids)`, to make it once for many batches; it holds
            copies of weights, so make it anew when they change.

    Raises:
        ValueError: Options that do not fit each other, the trie or the model.
    """
    beam_widths = _widths(trie, num_beams, num_items, widths)
    check_prompts(input_ids, attention_mask)
    trie = trie.to(input_ids.device)
    filter_ = ItemFilter(trie, len(input_ids), allowed_items, excluded_items)
    head = head or LevelHead(model, trie.level_token_ids)
    check_length(head, input_ids.shape[1] + trie.num_levels - 1)
    beams = start_beams(head, input_ids, attention_mask, mode)
    frontier = _search(beams, head, trie, filter_, beam_widths, normalize)
    items, scores = _expand_leaves(trie, filter_, frontier, num_items)
    num_valid = (items >= 0).sum(1)
    proven = (scores > frontier.pruned.unsqueeze(1)).sum(1) if certify else num_valid * 0
    return SearchResult(items, scores, num_valid, proven)


def _search(
    beams: Beams,
    head: LevelHead,
    trie: SidTrie,
    filter_: ItemFilter,
    widths: Sequence[int],
    normalize: Normalize,
) -> _Frontier:
    states = beams.prefill()
    batch = len(states)
    frontier = _Frontier(
        node=states.new_zeros(batch, 1, dtype=torch.int64),
        score=states.new_zeros(batch, 1, dtype=torch.float32),
        token=states.new_zeros(batch, 1, dtype=torch.int64),
        parent=states.new_zeros(batch, 1, dtype=torch.int64),
        pruned=states.new_full((batch,), _NEVER, dtype=torch.float32),
    )
    for level, width in enumerate(widths):
        if level:
            states = beams.advance(frontier.token, frontier.parent)
        frontier = _extend(states, head, trie, filter_, frontier, level, width, normalize)
    return frontier


def _extend(
    states: Tensor,
    head: LevelHead,
    trie: SidTrie,
    filter_: ItemFilter,
    frontier: _Frontier,
    level: int,
    width: int,
    normalize: Normalize,
) -> _Frontier:
    """Score all children of the frontier and keep the best `width`."""
    logits_BWK = head.logits(states, level)
    if level == 0:
        code_BWC = trie.tok[0].long().expand(*frontier.node.shape, -1)
        child_BWC = torch.arange(code_BWC.shape[-1], device=code_BWC.device).expand_as(code_BWC)
        real_BWC = torch.ones_like(child_BWC, dtype=torch.bool)
    else:
        child_BWC, code_BWC, real_BWC = trie.children(level, frontier.node)
    if not filter_.is_trivial:
        real_BWC = real_BWC & filter_.alive(level, child_BWC.flatten(1)).view_as(child_BWC)
    score_BWC = logits_BWK.gather(-1, code_BWC).masked_fill(~real_BWC, _NEVER)
    if normalize == "trie":
        log_z = score_BWC.logsumexp(-1)
    else:
        log_z = head.log_normalizer(states, logits_BWK, normalize)
    score_BWC = score_BWC + (frontier.score - log_z).unsqueeze(-1)
    score_BWC = score_BWC.masked_fill(~real_BWC, _NEVER)  # -inf - -inf is nan

    score_BN, child_BN = score_BWC.flatten(1), child_BWC.flatten(1)
    best = _ranking_key(score_BN, child_BN).topk(min(width + 1, score_BN.shape[1])).indices
    pruned = frontier.pruned
    if best.shape[1] > width:
        pruned = torch.maximum(pruned, score_BN.gather(1, best[:, width:]).squeeze(1))
        best = best[:, :width]
    code_BW = code_BWC.flatten(1).gather(1, best)
    return _Frontier(
        node=child_BN.gather(1, best),
        score=score_BN.gather(1, best),
        token=trie.level_token_ids[level][code_BW],
        parent=best // child_BWC.shape[-1],
        pruned=pruned,
    )


def _ranking_key(score_BN: Tensor, node_BN: Tensor) -> Tensor:
    """(B, N) int64 that orders by score, then by lower node: topk leaves ties undefined."""
    bits = (score_BN + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal to 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # IEEE 754 floats sort as these integers
    return (ordered.long() << 32) - node_BN


def _expand_leaves(
    trie: SidTrie, filter_: ItemFilter, frontier: _Frontier, num_items: int
) -> tuple[Tensor, Tensor]:
    """(B, k) items and scores of the best leaves: by score, then SID, then popularity."""
    # Every leaf kept has an allowed item, so the first k leaves have at least k.
    leaf_BW, score_BW = frontier.node[:, :num_items], frontier.score[:, :num_items]
    low_BW, high_BW = trie.item_range(trie.num_levels - 1, leaf_BW)
    most = max(1, int((high_BW - low_BW).max()))
    place_BWC = low_BW.unsqueeze(-1) + torch.arange(most, device=leaf_BW.device)
    real_BN = (place_BWC < high_BW.unsqueeze(-1)).flatten(1)
    place_BN = place_BWC.flatten(1).clamp_(max=trie.num_items - 1)
    score_BN = score_BW.repeat_interleave(most, 1)
    real_BN = real_BN & (score_BN > _NEVER)
    if not filter_.is_trivial:
        real_BN = real_BN & filter_.item_alive(place_BN)
    first = (~real_BN).to(torch.uint8).argsort(dim=1, stable=True)[:, :num_items]
    real_Bk = real_BN.gather(1, first)
    item_Bk = trie.item_order[place_BN.gather(1, first)].long().masked_fill(~real_Bk, -1)
    score_Bk = score_BN.gather(1, first).masked_fill(~real_Bk, _NEVER)
    missing = num_items - item_Bk.shape[1]
    return (
        nn.functional.pad(item_Bk, (0, missing), value=-1),
        nn.functional.pad(score_Bk, (0, missing), value=_NEVER),
    )


def _widths(
    trie: SidTrie, num_beams: int, num_items: int, widths: Sequence[int] | None
) -> list[int]:
    """Beams per level: at least k, since each is sure of one item only."""
    if num_beams < 1 or num_items < 1:
        raise ValueError(
            f"num_beams and num_items: at least 1 needed, got {num_beams} and {num_items}"
        )
    if widths is None:
        widths = [num_beams] * trie.num_levels
    if len(widths) != trie.num_levels or min(widths) < 1:
        raise ValueError(
            f"widths: {trie.num_levels} numbers of at least 1 needed, one per level, got"
            f" {list(widths)}"
        )
    return [max(width, num_items) for width in widths]
