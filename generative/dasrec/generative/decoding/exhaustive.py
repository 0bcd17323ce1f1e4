"""Scores of every item of a small catalogue, by teacher forcing: what a search approximates.

Written to be compared with: SIDs are read as plain sequences, without the search's bookkeeping.

Shape letters: B users, T prompt tokens, I items, F leaves (distinct SIDs), G leaves of one pass,
L levels, K codes of a level, C children, X the width of `LevelHead.states`.
"""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from dasrec.generative.decoding.head import LevelHead, Normalize
from dasrec.generative.decoding.index import SidIndex
from dasrec.generative.decoding.paths import leaf_places
from dasrec.generative.decoding.prompts import check_length, check_prompts, prompt_positions


class _Leaves(NamedTuple):
    """Every SID there is."""

    node_FL: Tensor
    """(F, L) nodes from the root to the leaf"""
    code_FL: Tensor
    """(F, L) codes; K where a short SID is padded"""


@torch.no_grad()
def score_items(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    trie: SidIndex,
    *,
    normalize: Normalize = "level",
    head: LevelHead | None = None,
    rows_per_pass: int = 1024,
) -> Tensor:
    """(B, I) float32 log-probability of every item's semantic ID after each prompt.

    log p(item) = sum over levels of log p(code_l | prompt, code_1..code_{l-1}). The prompt is
    encoded once; the SIDs are then read as plain sequences, at a cost of B F (L - 1) tokens.

    Args:
        model: As in `constrained_beam_search`.
        input_ids: (B, T) prompts, padded on the left.
        attention_mask: (B, T) 1 at real tokens.
        trie: The catalogue.
        normalize: What a code's probability is over, see `Normalize`.
        head: `LevelHead(model, trie.level_token_ids)`, to make it once for many batches.
        rows_per_pass: Sequences run at a time; bounds memory.

    Raises:
        ValueError: Prompts the model cannot take.
    """
    check_prompts(input_ids, attention_mask)
    trie = trie.to(input_ids.device)
    head = head or LevelHead(model, trie.level_token_ids)
    check_length(head, input_ids.shape[1] + trie.num_levels - 1)
    batch = len(input_ids)
    attention_mask = attention_mask.long()
    cache: Any = DynamicCache(config=head.config)
    first_B1X = head.states(
        last_only=True,
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=prompt_positions(attention_mask),
        past_key_values=cache,
        use_cache=True,
    )
    leaves = _all_leaves(trie)
    parts = []
    rows = max(1, rows_per_pass // batch)
    for some in zip(*(torch.split(t, rows) for t in leaves), strict=True):
        chunk = _Leaves(*some)
        states_BGLX = first_B1X.unsqueeze(1).expand(-1, len(chunk.code_FL), -1, -1)
        if trie.num_levels > 1:
            rest = _read_sids(head, trie, cache, attention_mask, chunk.code_FL)
            states_BGLX = torch.cat([states_BGLX, rest], dim=2)
        parts.append(_score_leaves(head, trie, states_BGLX, chunk, normalize))
    return _per_item(trie, torch.cat(parts, dim=1), leaves.node_FL[:, -1])


def _all_leaves(trie: SidIndex) -> _Leaves:
    """Walk the whole tree, level by level."""
    node_NL = torch.zeros(1, 1, dtype=torch.int64, device=trie.device)  # the root, then real levels
    code_NL = node_NL[:, :0]
    for level in range(trie.num_levels):
        children = trie.children(level, node_NL[:, -1])
        node_NL = torch.cat([node_NL[children.row_C], children.node_C.unsqueeze(1)], 1)
        code_NL = torch.cat([code_NL[children.row_C], children.code_C.unsqueeze(1)], 1)
    return _Leaves(node_NL[:, 1:], code_NL)


def _per_item(trie: SidIndex, score_BF: Tensor, node_F: Tensor) -> Tensor:
    """(B, I) the score of each item's leaf."""
    leaf_D, place_D = leaf_places(trie, node_F)
    item_D = trie.item_of_place[place_D].long()
    score_BI = torch.empty(len(score_BF), trie.num_items, device=score_BF.device)
    score_BI[:, item_D] = score_BF[:, leaf_D]
    return score_BI


def _read_sids(
    head: LevelHead, trie: SidIndex, prompt_cache: Any, attention_mask: Tensor, code_GL: Tensor
) -> Tensor:
    """(B, G, L-1, X) states after each prefix of the leaves' SIDs."""
    batch, count, steps = len(attention_mask), len(code_GL), trie.num_levels - 1
    tables = trie.level_token_ids[:steps]
    # Padding reads as some token; nothing that counts comes after it.
    token_GS = torch.stack(
        [table[code_GL[:, i].clamp(max=len(table) - 1)] for i, table in enumerate(tables)], dim=1
    )
    row = torch.arange(batch, device=code_GL.device).repeat_interleave(count)
    cache = copy.deepcopy(prompt_cache)
    cache.reorder_cache(row)  # also repeats, for every kind of layer
    mask = attention_mask[row]
    offset_S = torch.arange(steps, device=mask.device)
    states = head.states(
        input_ids=token_GS.repeat(batch, 1),
        attention_mask=torch.cat([mask, mask.new_ones(batch * count, steps)], 1),
        position_ids=mask.sum(1, keepdim=True) + offset_S,
        past_key_values=cache,
        use_cache=True,
    )
    return states.view(batch, count, steps, -1)


def _score_leaves(
    head: LevelHead, trie: SidIndex, states_BGLX: Tensor, leaves: _Leaves, normalize: Normalize
) -> Tensor:
    """(B, G) sum over levels of the log-probability of the leaf's code."""
    batch, count = states_BGLX.shape[:2]
    total_BG = torch.zeros(batch, count, device=states_BGLX.device)
    for level in range(trie.num_levels):
        states_BGX = states_BGLX[:, :, level]
        logits_BGK = head.logits(states_BGX, level)
        code_G = leaves.code_FL[:, level]
        if normalize == "trie":
            log_z = _existing(trie, logits_BGK, leaves.node_FL, level).logsumexp(-1)
        else:
            log_z = head.log_normalizer(states_BGX, logits_BGK, normalize)
        index = code_G.clamp(max=logits_BGK.shape[-1] - 1).expand(batch, -1).unsqueeze(-1)
        log_p_BG = logits_BGK.gather(-1, index).squeeze(-1) - log_z
        total_BG += torch.where(code_G < trie.level_sizes[level], log_p_BG, 0.0)
    return total_BG


def _existing(trie: SidIndex, logits_BGK: Tensor, node_GL: Tensor, level: int) -> Tensor:
    """Logits of the codes that exist after the leaves' first `level` codes, the rest -inf."""
    before_G = node_GL[:, level - 1] if level else torch.zeros_like(node_GL[:, 0])
    children = trie.children(level, before_G)
    exists_GK = torch.zeros_like(logits_BGK[0, :, :1], dtype=torch.bool)
    exists_GK = exists_GK.repeat(1, logits_BGK.shape[-1] + 1)  # the last column is padding
    exists_GK[children.row_C, children.code_C] = True
    return logits_BGK.masked_fill(~exists_GK[:, :-1], float("-inf"))
