"""Lists of varied items: beams in groups, each kept away from where earlier groups went.

A plain beam search spends its list on one neighbourhood of the tree. Diverse beam search
(Vijayakumar et al. 2016, 1610.02424) gives every group its own beams and takes a penalty off a
candidate for every earlier group that chose the same prefix at this level. The first group is a
plain search.

Shape letters: B users, T prompt tokens, W beams of all groups, V beams of one group, C candidates
of all users one after another, M prefixes chosen by earlier groups, k items asked for.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dasrec.generative.decoding.beams import Mode, start_beams
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
from dasrec.generative.decoding.prompts import check_length, check_prompts
from dasrec.generative.decoding.search import SearchResult

_NO_KEY = torch.iinfo(torch.int64).min


@torch.no_grad()
def diverse_beam_search(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    trie: SidIndex,
    *,
    num_groups: int,
    num_beams: int,
    num_items: int,
    penalty: float,
    normalize: Normalize = "level",
    allowed: Predicates | None = None,
    excluded: Ragged | Tensor | None = None,
    only: Lists | None = None,
    mode: Mode = "auto",
    head: LevelHead | None = None,
) -> SearchResult:
    """Items of several parts of the tree, each part's best.

    The groups' best semantic IDs are taken in turn, one per group, until there are enough; the
    list is then ordered by score. No item comes twice, and `num_items` come wherever there are as
    many: the first group has at least that many beams.

    Args:
        model: As in `constrained_beam_search`.
        input_ids: (B, T) prompts, padded on the left.
        attention_mask: (B, T) 1 at real tokens.
        trie: The catalogue.
        num_groups: More groups, more variety; 1 is a plain search.
        num_beams: Beams per level of each group.
        num_items: k.
        penalty: In nats, per earlier group; 0 leaves the groups to find the same prefixes, a large
            one keeps them apart as far as there are different prefixes.
        normalize: As in `constrained_beam_search`; likewise all that follow.
        allowed: What to choose from.
        excluded: Items never to return.
        only: The only items to return.
        mode: How beams are kept.
        head: Made once for many batches.

    Returns:
        As `constrained_beam_search`; scores are log-probabilities without penalties, and nothing
        is proven (`exact_prefix` is 0).

    Raises:
        ValueError: Options that do not fit each other, the trie or the model.
    """
    _check(num_groups, num_beams, num_items, penalty)
    check_prompts(input_ids, attention_mask)
    trie = trie.to(input_ids.device)
    filter_ = ItemFilter(trie, len(input_ids), allowed, excluded, only)
    head = head or LevelHead(model, trie.level_token_ids)
    check_length(head, input_ids.shape[1] + trie.num_levels - 1)
    beams = start_beams(head, input_ids, attention_mask, mode)
    laps = Laps(None, input_ids.device)
    widths = [max(num_beams, num_items), *[num_beams] * (num_groups - 1)]
    # Every group starts from a root of its own.
    states = beams.prefill().expand(-1, num_groups, -1)
    start = root(len(states), states.device)
    frontier = Frontier(*(values.expand(-1, num_groups) for values in start))
    sizes = [1] * num_groups
    for level in range(trie.num_levels):
        if level:
            states = beams.advance(frontier.token, frontier.parent)
        candidates = extend(states, head, trie, filter_, frontier, level, normalize, laps)
        last = level == trie.num_levels - 1
        frontier, sizes = _choose(
            candidates, trie, level, sizes, widths, float("inf") if last else penalty
        )
        if level == 0:
            frontier = frontier._replace(parent=torch.zeros_like(frontier.parent))
    num_items_B = torch.full((len(states),), num_items)
    items, scores = expand_leaves(trie, filter_, _in_turn(frontier, sizes, num_items), num_items_B)
    num_valid = (items >= 0).sum(1)
    return SearchResult(items, scores, num_valid, torch.zeros_like(num_valid))


def _check(num_groups: int, num_beams: int, num_items: int, penalty: float) -> None:
    for name, value in (
        ("num_groups", num_groups),
        ("num_beams", num_beams),
        ("num_items", num_items),
    ):
        if value < 1:
            raise ValueError(f"{name}: at least 1 needed, got {value}")
    if not penalty >= 0:
        raise ValueError(f"penalty: at least 0 needed, got {penalty}")


def _choose(
    candidates: Candidates,
    index: SidIndex,
    level: int,
    sizes: Sequence[int],
    widths: Sequence[int],
    penalty: float,
) -> tuple[Frontier, list[int]]:
    """Every group's best candidates, group after group, and how many columns each has."""
    group_W = torch.repeat_interleave(torch.tensor(sizes)).to(candidates.row_C.device)
    group_C = group_W[candidates.row_C % candidates.width]
    node_C = (candidates.row_C // candidates.width << 32) + candidates.node_C  # of one user
    taken_M = node_C[:0]
    chosen = []
    for group, width in enumerate(widths):
        times_C = torch.searchsorted(taken_M, node_C, right=True)
        times_C = times_C - torch.searchsorted(taken_M, node_C)
        less_C = (penalty * times_C).masked_fill_(times_C == 0, 0.0)  # inf * 0 is nan
        score_C = candidates.score_C - less_C
        open_C = (group_C == group) & (score_C > NEVER)
        key_C = ranking_key(score_C, candidates.order_C).masked_fill_(~open_C, _NO_KEY)
        key_BN = candidates.padded(key_C, _NO_KEY)
        best = key_BN.topk(min(width, key_BN.shape[1]))
        found = candidates.take(index, level, best.indices)
        chosen.append(found._replace(score=found.score.masked_fill(best.values == _NO_KEY, NEVER)))
        new_BV = candidates.at_BN.gather(1, best.indices)[best.values > _NO_KEY]
        taken_M = torch.cat([taken_M, node_C[new_BV]]).sort().values
    frontier = Frontier(*(torch.cat(values, 1) for values in zip(*chosen, strict=True)))
    return frontier, [part.node.shape[1] for part in chosen]


def _in_turn(leaves: Frontier, sizes: Sequence[int], num_items: int) -> Frontier:
    """The first k leaves, one of each group in turn, then ordered by score."""
    turn_W = torch.cat([torch.arange(size) for size in sizes]).to(leaves.node.device)
    turn_BW = turn_W.masked_fill(leaves.score == NEVER, len(turn_W))
    first_Bk = turn_BW.argsort(dim=1, stable=True)[:, :num_items]
    score_Bk = leaves.score.gather(1, first_Bk)
    by_score_Bk = score_Bk.argsort(dim=1, descending=True, stable=True)
    order_Bk = first_Bk.gather(1, by_score_Bk)
    return Frontier(*(values.gather(1, order_Bk) for values in leaves))


def cap_per_label(
    result: SearchResult, label_I: Tensor, *, most: int, num_items: int
) -> SearchResult:
    """The first `num_items` of each list that leave at most `most` items per label.

    For a label such as the category, the seller or the first code. Search for more items than are
    wanted: what is dropped is not replaced from outside the list.

    Args:
        result: Lists of any search.
        label_I: (I,) int64 label of each item.
        most: Items of one label that may come.
        num_items: Length of the lists.

    Raises:
        ValueError: Not one label per item of the lists, or a number below 1.
    """
    if min(most, num_items) < 1:
        raise ValueError(f"most and num_items: at least 1 needed, got {most} and {num_items}")
    if label_I.ndim != 1 or int(result.items.max()) >= len(label_I):
        raise ValueError(
            f"label_I: one label per item needed, got shape {tuple(label_I.shape)} for item"
            f" {int(result.items.max())}"
        )
    label_Bk = label_I.to(result.items.device)[result.items.clamp(min=0)]
    same_Bkk = (label_Bk.unsqueeze(2) == label_Bk.unsqueeze(1)).tril(-1)
    kept_Bk = (same_Bkk.sum(2) < most) & (result.items >= 0)
    order_Bk = (~kept_Bk).to(torch.uint8).argsort(dim=1, stable=True)[:, :num_items]
    kept_Bk = kept_Bk.gather(1, order_Bk)
    num_valid = kept_Bk.sum(1)
    return SearchResult(
        result.items.gather(1, order_Bk).masked_fill(~kept_Bk, -1),
        result.scores.gather(1, order_Bk).masked_fill(~kept_Bk, NEVER),
        num_valid,
        torch.zeros_like(num_valid),
    )
