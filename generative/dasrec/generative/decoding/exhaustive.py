"""Scores of every item of a small catalogue, by teacher forcing: what a search approximates.

Shape letters: B users, T prompt tokens, I items, F leaves (distinct SIDs), G leaves of one pass,
L levels, K codes of a level, X the width of `LevelHead.states`.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from dasrec.generative.decoding.beams import check_length, check_prompts, prompt_positions
from dasrec.generative.decoding.head import LevelHead, Normalize
from dasrec.generative.decoding.trie import SidTrie


@torch.no_grad()
def score_items(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    trie: SidTrie,
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
    parts = []
    all_F = torch.arange(trie.num_leaves, device=input_ids.device)
    for leaf_G in torch.split(all_F, max(1, rows_per_pass // batch)):
        states_BGLX = first_B1X.unsqueeze(1).expand(-1, len(leaf_G), -1, -1)
        if trie.num_levels > 1:
            rest = _read_sids(head, trie, cache, attention_mask, leaf_G)
            states_BGLX = torch.cat([states_BGLX, rest], dim=2)
        parts.append(_score_leaves(head, trie, states_BGLX, leaf_G, normalize))
    score_BF = torch.cat(parts, dim=1)
    items_per_leaf = trie.item_start.diff().long()
    score_BI = torch.empty(batch, trie.num_items, device=score_BF.device)
    score_BI[:, trie.item_order.long()] = score_BF.repeat_interleave(items_per_leaf, dim=1)
    return score_BI


def _read_sids(
    head: LevelHead, trie: SidTrie, prompt_cache: Any, attention_mask: Tensor, leaf_G: Tensor
) -> Tensor:
    """(B, G, L-1, X) states after each prefix of the leaves' SIDs."""
    batch, count, steps = len(attention_mask), len(leaf_G), trie.num_levels - 1
    token_GS = torch.stack(
        [
            trie.level_token_ids[level][trie.tok[level][trie.leaf_nodes(level)[leaf_G]].long()]
            for level in range(steps)
        ],
        dim=1,
    )
    row = torch.arange(batch, device=leaf_G.device).repeat_interleave(count)
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
    head: LevelHead, trie: SidTrie, states_BGLX: Tensor, leaf_G: Tensor, normalize: Normalize
) -> Tensor:
    """(B, G) sum over levels of the log-probability of the leaf's code."""
    batch = len(states_BGLX)
    total_BG = states_BGLX.new_zeros(batch, len(leaf_G), dtype=torch.float32)
    for level in range(trie.num_levels):
        states_BGX = states_BGLX[:, :, level]
        logits_BGK = head.logits(states_BGX, level)
        code_G = trie.tok[level][trie.leaf_nodes(level)[leaf_G]].long()
        if normalize == "trie":
            log_z = _existing(trie, logits_BGK, leaf_G, level).logsumexp(-1)
        else:
            log_z = head.log_normalizer(states_BGX, logits_BGK, normalize)
        index = code_G.expand(batch, -1).unsqueeze(-1)
        total_BG += logits_BGK.gather(-1, index).squeeze(-1) - log_z
    return total_BG


def _existing(trie: SidTrie, logits_BGK: Tensor, leaf_G: Tensor, level: int) -> Tensor:
    """Logits of the codes that exist after the leaves' first `level` codes, the rest -inf."""
    if level == 0:
        return logits_BGK[..., trie.tok[0].long()]
    _, code_GC, real_GC = trie.children(level, trie.leaf_nodes(level - 1)[leaf_G])
    logits_BGC = logits_BGK.gather(-1, code_GC.expand(len(logits_BGK), -1, -1))
    return logits_BGC.masked_fill(~real_GC, float("-inf"))
