"""Exact log-probabilities of given items: for re-ranking a list, or rewarding one.

The prompt runs once, and so does every prefix that candidates of a user share: their union is a
small tree, which goes through the model as the beams of a search do.

Shape letters: B users, T prompt tokens, G candidates per user, W nodes per user (padded), L levels,
K codes of a level, C children, X the width of `LevelHead.states`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dasrec.generative.decoding.beams import Mode, start_beams
from dasrec.generative.decoding.head import LevelHead, Normalize
from dasrec.generative.decoding.index import SidIndex
from dasrec.generative.decoding.paths import item_paths
from dasrec.generative.decoding.prompts import check_length, check_prompts


@torch.no_grad()
def score_candidates(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    trie: SidIndex,
    items: Tensor | Sequence[Sequence[int]],
    *,
    normalize: Normalize = "level",
    mode: Mode = "auto",
    head: LevelHead | None = None,
) -> Tensor:
    """(B, G) float32 log-probability of each candidate's semantic ID, -inf where there is none.

    The scores of `constrained_beam_search` and of `score_items`, for chosen items only. Of "trie"
    it is the probability among all items of the catalogue, whatever a request allows.

    Args:
        model: As in `constrained_beam_search`.
        input_ids: (B, T) prompts, padded on the left.
        attention_mask: (B, T) 1 at real tokens.
        trie: The catalogue.
        items: (B, G) item indices padded with -1, or one list per user; in any order, and an item
            may be there twice.
        normalize: What a code's probability is over, see `Normalize`.
        mode: As in `constrained_beam_search`.
        head: `LevelHead(model, trie.level_token_ids)`, to make it once for many batches.

    Raises:
        ValueError: Prompts the model cannot take, or items that are not in the catalogue.
    """
    check_prompts(input_ids, attention_mask)
    trie = trie.to(input_ids.device)
    item_BG = _checked(items, len(input_ids), trie)
    head = head or LevelHead(model, trie.level_token_ids)
    check_length(head, input_ids.shape[1] + trie.num_levels - 1)
    beams = start_beams(head, input_ids, attention_mask, mode)
    states_BWX = beams.prefill()
    paths = item_paths(trie, item_BG.clamp(min=0).flatten())
    node_BGL, code_BGL = (t.view(*item_BG.shape, -1) for t in paths)
    user_B1 = torch.arange(len(item_BG), device=item_BG.device).unsqueeze(1)
    slot_BG = torch.zeros_like(item_BG)
    node_BW = torch.zeros_like(item_BG[:, :1])
    score_BG = torch.zeros(item_BG.shape, device=item_BG.device)
    for level in range(trie.num_levels):
        if level:
            before_BG, slot_BG = slot_BG, _slots(node_BGL[:, :, level - 1])
            width = int(slot_BG.max()) + 1
            token_BG = _tokens(trie, level - 1, code_BGL[:, :, level - 1])
            # All candidates of a slot write the same values.
            node_BW, token_BW, parent_BW = (
                values_BG.new_zeros(len(values_BG), width).scatter_(1, slot_BG, values_BG)
                for values_BG in (node_BGL[:, :, level - 1], token_BG, before_BG)
            )
            states_BWX = beams.advance(token_BW, parent_BW)
        logits_BWK = head.logits(states_BWX, level)
        if normalize == "trie":
            log_z_BW = _log_sum_of_children(trie, logits_BWK, node_BW, level)
        else:
            log_z_BW = head.log_normalizer(states_BWX, logits_BWK, normalize)
        code_BG = code_BGL[:, :, level]
        ended_BG = code_BG == trie.level_sizes[level]  # padding of a short SID: probability 1
        own_BG = logits_BWK[user_B1, slot_BG, code_BG.masked_fill(ended_BG, 0)]
        score_BG += (own_BG - log_z_BW.gather(1, slot_BG)).masked_fill(ended_BG, 0.0)
    return score_BG.masked_fill(item_BG < 0, float("-inf"))


def _checked(items: Tensor | Sequence[Sequence[int]], batch_size: int, trie: SidIndex) -> Tensor:
    """(B, G) int64, at least one column."""
    if not isinstance(items, Tensor):
        rows = [torch.as_tensor(row, dtype=torch.int64) for row in items]
        items = pad_sequence(rows, batch_first=True, padding_value=-1) if rows else torch.empty(0)
    if items.ndim != 2 or len(items) != batch_size or not items.shape[1]:
        raise ValueError(
            f"items: one non-empty row of candidates per prompt needed, ({batch_size}, G), got"
            f" {tuple(items.shape)}"
        )
    items = items.to(trie.device, torch.int64)
    low, high = int(items.min()), int(items.max())
    if low < -1 or high >= trie.num_items:
        raise ValueError(
            f"items: item index outside 0..{trie.num_items - 1} (-1 for none), got {low}..{high}"
        )
    return items


def _slots(node_BG: Tensor) -> Tensor:
    """(B, G) number of each node among the user's different ones, in the order of nodes."""
    sorted_BG, order_BG = node_BG.sort(dim=1)
    new_BG = torch.zeros_like(node_BG)
    new_BG[:, 1:] = sorted_BG[:, 1:] != sorted_BG[:, :-1]
    return torch.empty_like(node_BG).scatter_(1, order_BG, new_BG.cumsum(1))


def _tokens(trie: SidIndex, level: int, code: Tensor) -> Tensor:
    """Vocabulary ids of codes; any for padding, below which the model is not asked."""
    table = trie.level_token_ids[level]
    return table[code.clamp(max=len(table) - 1)]


def _log_sum_of_children(trie: SidIndex, logits_BWK: Tensor, node_BW: Tensor, level: int) -> Tensor:
    """(B, W) log of the sum of exp(logit) over the codes that exist after the nodes."""
    children = trie.children(level, node_BW.flatten())
    num_codes = logits_BWK.shape[-1]
    absent_RK = torch.ones(
        node_BW.numel(), num_codes + 1, dtype=torch.bool, device=logits_BWK.device
    )
    absent_RK[children.row_C, children.code_C] = False  # the last column is padding
    absent_BWK = absent_RK[:, :-1].view_as(logits_BWK)
    return logits_BWK.masked_fill(absent_BWK, float("-inf")).logsumexp(-1)
