"""Drawing different items in proportion to their probability: stochastic beam search.

Every prefix gets its log-probability plus Gumbel noise, such that a prefix has the largest of its
continuations; the k items with the largest are then k draws without replacement, found by a beam
search of width k (Kool et al. 2019, 1903.06059). Probabilities are over the items a user may get,
as under `normalize="trie"`. That is what makes it exact: under "level" and "full" what is below a
prefix adds up to less than the prefix, by an amount that is known only after scoring all of it.

Shape letters: B users, T prompt tokens, W beams of a user, R = B W beams, C candidates of all users
one after another, N candidates of the user with most, k items drawn, D items of the beams' leaves.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dasrec.generative.decoding.beams import Mode, start_beams
from dasrec.generative.decoding.candidates import NEVER, Candidates, Frontier, extend, root
from dasrec.generative.decoding.filters import ItemFilter, Lists, Predicates, Ragged
from dasrec.generative.decoding.head import LevelHead, Normalize
from dasrec.generative.decoding.index import SidIndex
from dasrec.generative.decoding.laps import Laps
from dasrec.generative.decoding.noise import child_key, gumbel, gumbel_below
from dasrec.generative.decoding.paths import leaf_places
from dasrec.generative.decoding.prompts import check_length, check_prompts


class Sample(NamedTuple):
    """Items drawn for B users, in the order of the draws."""

    items: Tensor
    """(B, k) int64 item indices, -1 where there are fewer."""
    log_probs: Tensor
    """(B, k) float64 log-probability of each item in a single draw."""
    perturbed: Tensor
    """(B, k) float64 log-probability plus Gumbel noise, falling; -inf where there is no item."""
    threshold: Tensor
    """(B,) float64: an item was drawn if its perturbed log-probability is above; -inf if all."""
    scores: Tensor
    """(B, k) float32 what `constrained_beam_search` ranks by, under `normalize`."""
    num_valid: Tensor
    """(B,) int64 how many of the k are real."""

    def inclusion(self) -> Tensor:
        """(B, k) probability that the item is drawn at all, given the threshold.

        sum of p(item) f(item) / inclusion over the items drawn estimates the mean of f over all
        items without bias (Kool et al. 2019, eq. 13); its variance falls with k.
        """
        return -torch.expm1(-(self.log_probs - self.threshold.unsqueeze(1)).exp())


class _Draws(NamedTuple):
    """What each beam carries besides its frontier."""

    log_prob: Tensor
    """(B, W) float64"""
    perturbed: Tensor
    """(B, W) float64"""
    key: Tensor
    """(B, W) int64, of the noise"""


@torch.no_grad()
def sample_items(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    trie: SidIndex,
    *,
    num_items: int,
    seeds: Tensor,
    normalize: Normalize = "level",
    allowed: Predicates | None = None,
    excluded: Ragged | Tensor | None = None,
    only: Lists | None = None,
    mode: Mode = "auto",
    head: LevelHead | None = None,
) -> Sample:
    """Draw `num_items` different items per prompt without replacement.

    The first is drawn in proportion to the items' probabilities, the next of the remaining ones,
    and so on: exactly, at the cost of a beam search of width k + 1. Items that share a SID share
    its probability equally. The same seed gives the same items whatever else is in the batch, and
    a larger `num_items` only adds items.

    Args:
        model: As in `constrained_beam_search`.
        input_ids: (B, T) prompts, padded on the left.
        attention_mask: (B, T) 1 at real tokens.
        trie: The catalogue.
        num_items: k.
        seeds: (B,) int64, one per user; `torch.randint(2**63 - 1, (B,), generator=...)` gives
            some.
        normalize: Of `Sample.scores` alone; draws do not depend on it.
        allowed: What to choose from, as in `constrained_beam_search`; likewise the next two.
        excluded: Items not to draw.
        only: The only items to draw from.
        mode: As in `constrained_beam_search`.
        head: `LevelHead(model, trie.level_token_ids)`, to make it once for many batches.

    Raises:
        ValueError: Options that do not fit each other, the trie or the model.
    """
    check_prompts(input_ids, attention_mask)
    _check(num_items, seeds, len(input_ids))
    trie = trie.to(input_ids.device)
    filter_ = ItemFilter(trie, len(input_ids), allowed, excluded, only)
    head = head or LevelHead(model, trie.level_token_ids)
    check_length(head, input_ids.shape[1] + trie.num_levels - 1)
    beams = start_beams(head, input_ids, attention_mask, mode)
    states = beams.prefill()
    frontier = root(len(states), states.device)
    draws = _first_draws(seeds.to(states.device))
    laps = Laps(None, states.device)
    for level in range(trie.num_levels):
        if level:
            states = beams.advance(frontier.token, frontier.parent)
        candidates = extend(states, head, trie, filter_, frontier, level, normalize, laps)
        chosen_BV, draws = _draw(candidates, draws, num_items + 1)
        frontier = candidates.take(trie, level, chosen_BV)
    return _draw_items(trie, filter_, frontier, draws, num_items)


def _check(num_items: int, seeds: Tensor, batch_size: int) -> None:
    if num_items < 1:
        raise ValueError(f"num_items: at least 1 needed, got {num_items}")
    if seeds.dtype != torch.int64 or seeds.shape != (batch_size,):
        raise ValueError(
            f"seeds: one int64 per prompt needed, ({batch_size},), got {seeds.dtype}"
            f" {tuple(seeds.shape)}"
        )


def _first_draws(seed_B: Tensor) -> _Draws:
    """The root: probability 1 and its noise."""
    key_B1 = child_key(seed_B, torch.zeros_like(seed_B)).unsqueeze(1)
    noise_B1 = gumbel(key_B1)
    return _Draws(torch.zeros_like(noise_B1), noise_B1, key_B1)


def _draw(candidates: Candidates, draws: _Draws, width: int) -> tuple[Tensor, _Draws]:
    """(B, V) columns of the candidates with the largest perturbed log-probabilities, and these."""
    row_C = candidates.row_C
    step_C = _log_shares(candidates.step_C.double(), row_C, draws.log_prob.numel())
    log_prob_C = draws.log_prob.flatten()[row_C] + step_C
    key_C = child_key(draws.key.flatten()[row_C], candidates.code_C)
    perturbed_C = gumbel_below(log_prob_C, row_C, draws.perturbed.flatten(), key_C)
    perturbed_BN = candidates.padded(perturbed_C, NEVER)
    best = perturbed_BN.topk(min(width, perturbed_BN.shape[1]))
    at_BV = candidates.at_BN.gather(1, best.indices)
    log_prob_BV = log_prob_C[at_BV].masked_fill(best.values == NEVER, NEVER)
    return best.indices, _Draws(log_prob_BV, best.values, key_C[at_BV])


def _log_shares(step_C: Tensor, row_C: Tensor, num_rows: int) -> Tensor:
    """(C,) log-probabilities of siblings among each other; whatever they were normalised over."""
    count_R = torch.bincount(row_C, minlength=num_rows)
    # segment_reduce adds in a fixed order, on a GPU too, where scatter_add does not.
    top_R = torch.segment_reduce(step_C, "max", lengths=count_R, unsafe=True, initial=NEVER)
    top_R = top_R.masked_fill_(top_R == NEVER, 0.0)
    share_C = (step_C - top_R[row_C]).exp()
    sum_R = torch.segment_reduce(share_C, "sum", lengths=count_R, unsafe=True, initial=0.0)
    log_C = step_C - (top_R + sum_R.log())[row_C]
    return log_C.masked_fill_(step_C == NEVER, NEVER)  # -inf - -inf is nan


def _draw_items(
    index: SidIndex, filter_: ItemFilter, frontier: Frontier, draws: _Draws, num_items: int
) -> Sample:
    """The items of the leaves, as one more level, and the k + 1st as threshold."""
    batch, width = frontier.node.shape
    row_D, place_D = leaf_places(index, frontier.node.flatten())
    log_prob_R, perturbed_R = draws.log_prob.flatten(), draws.perturbed.flatten()
    alive_D = (perturbed_R[row_D] > NEVER) & filter_.item_alive(place_D, row_D // width)
    row_D, place_D = row_D[alive_D], place_D[alive_D]
    item_D = index.item_of_place[place_D].long()
    shared_R = torch.bincount(row_D, minlength=batch * width)
    log_prob_D = log_prob_R[row_D] - shared_R[row_D].double().log()
    key_D = child_key(draws.key.flatten()[row_D], item_D)
    perturbed_D = gumbel_below(log_prob_D, row_D, perturbed_R, key_D)

    order_D = perturbed_D.argsort(descending=True, stable=True)
    user_D = row_D[order_D] // width
    by_user_D = user_D.argsort(stable=True)
    order_D, user_D = order_D[by_user_D], user_D[by_user_D]
    count_B = torch.bincount(user_D, minlength=batch)
    place_in_list_D = torch.arange(len(user_D), device=user_D.device)
    place_in_list_D = place_in_list_D - (count_B.cumsum(0) - count_B)[user_D]
    kept_D = place_in_list_D <= num_items
    cell = (user_D[kept_D], place_in_list_D[kept_D])

    def lists(values_D: Tensor, fill: float | int) -> Tensor:
        """(B, k + 1)"""
        empty = values_D.new_full((batch, num_items + 1), fill)
        return empty.index_put(cell, values_D[order_D[kept_D]])

    perturbed_Bk = lists(perturbed_D, NEVER)
    return Sample(
        items=lists(item_D, -1)[:, :-1],
        log_probs=lists(log_prob_D, NEVER)[:, :-1],
        perturbed=perturbed_Bk[:, :-1],
        threshold=perturbed_Bk[:, -1],
        scores=lists(frontier.score.flatten()[row_D], NEVER)[:, :-1],
        num_valid=count_B.clamp(max=num_items),
    )
