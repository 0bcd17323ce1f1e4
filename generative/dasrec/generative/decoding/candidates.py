"""One step of a search: what may follow the beams, and with what probability.

Which of it to keep is the search's own choice: the best (`search`), a draw, a varied list.

Shape letters: B users, W beams of a user, R = B W beams, C candidates of all users one after
another, N candidates of the user with most, V chosen ones of a user, K codes of the level, X the
width of `LevelHead.states`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dasrec.generative.decoding.filters import ItemFilter
from dasrec.generative.decoding.head import LevelHead, Normalize
from dasrec.generative.decoding.index import SidIndex
from dasrec.generative.decoding.laps import Laps

NEVER = float("-inf")


class Frontier(NamedTuple):
    """The beams after one level; a beam with score -inf is padding."""

    node: Tensor
    """(B, W)"""
    score: Tensor
    """(B, W) float32 log-probability of the prefix"""
    token: Tensor
    """(B, W) vocabulary id of the node's code; any for padding of a short SID"""
    parent: Tensor
    """(B, W) index of the beam it came from"""
    rank: Tensor
    """(B, W) place among the user's beams in the order of SIDs"""
    ended: Tensor
    """(B, W) bool: the node is padding of a short SID, so only padding follows"""


def root(batch_size: int, device: torch.device) -> Frontier:
    """The frontier before the first level: one beam per user, at the root."""
    zero = torch.zeros(batch_size, 1, dtype=torch.int64, device=device)
    return Frontier(zero, zero.float(), zero, zero, zero, zero.bool())


class Candidates(NamedTuple):
    """All children of a batch's beams, user after user."""

    score_C: Tensor
    """(C,) float32 log-probability of the prefix; -inf where the user may get nothing below"""
    step_C: Tensor
    """(C,) float32 the last code's share of it"""
    node_C: Tensor
    """(C,)"""
    code_C: Tensor
    """(C,)"""
    row_C: Tensor
    """(C,) beam it continues, among the R of the batch"""
    order_C: Tensor
    """(C,) int64 below 2^32: rises with the SID among one user's candidates"""
    at_BN: Tensor
    """(B, N) index of each user's candidates; any where there are fewer"""
    real_BN: Tensor
    """(B, N) whether there is one"""
    width: int
    """W"""

    def padded(self, values_C: Tensor, fill: float | int) -> Tensor:
        """(B, N) values per user, `fill` where there are no more."""
        values_BN = values_C.index_select(0, self.at_BN.flatten()).view(self.at_BN.shape)
        return values_BN.masked_fill_(~self.real_BN, fill)

    def take(self, index: SidIndex, level: int, chosen_BV: Tensor) -> Frontier:
        """The frontier of the chosen candidates, given by their columns in (B, N)."""
        at_BV = self.at_BN.gather(1, chosen_BV)
        real_BV = self.real_BN.gather(1, chosen_BV)
        code_BV = self.code_C[at_BV]
        table = index.level_token_ids[level]
        return Frontier(
            node=self.node_C[at_BV],
            score=self.score_C[at_BV].masked_fill_(~real_BV, NEVER),
            token=table[code_BV.clamp(max=len(table) - 1)],
            parent=self.row_C[at_BV] % self.width,
            rank=self.order_C[at_BV].argsort(1).argsort(1),
            ended=code_BV == len(table),
        )


def extend(
    states: Tensor,
    head: LevelHead,
    index: SidIndex,
    filter_: ItemFilter,
    frontier: Frontier,
    level: int,
    normalize: Normalize,
    laps: Laps,
) -> Candidates:
    """Score every child of the beams.

    Args:
        states: (B, W, X) the model's states after each beam.
        head: Turns states into logits of the level's codes.
        index: The catalogue.
        filter_: What each user may get.
        frontier: The beams.
        level: Of the children, from 0.
        normalize: What a code's probability is over.
        laps: Takes the seconds of "head" and "constraint".
    """
    width, size = frontier.score.shape[1], index.level_sizes[level]
    node_C, code_C, row_C, count_R = index.children(level, frontier.node.flatten())
    padding_C = code_C == size if index.level_padded[level] else None
    with_token_C = code_C if padding_C is None else code_C - padding_C.long()  # any code
    laps.lap("constraint")
    states_RX = states.flatten(0, 1)
    if normalize == "trie":
        step_C = head.logits_at(states_RX, level, row_C, with_token_C)
        laps.lap("head")
    else:
        logits_RK = head.logits(states_RX, level)
        log_z_R = head.log_normalizer(states_RX, logits_RK, normalize)
        laps.lap("head")
        # index_select: four times as fast as indexing on a CPU
        step_C = logits_RK.flatten().index_select(0, row_C * size + with_token_C)
    dead_C = None
    if not filter_.is_trivial:
        dead_C = ~filter_.alive(level, node_C, row_C // width)
        step_C.masked_fill_(dead_C, NEVER)
    if normalize == "trie":
        log_z_R = _log_sum_exp(step_C, count_R, row_C)
    step_C -= log_z_R.index_select(0, row_C)
    if padding_C is not None:
        step_C.masked_fill_(padding_C, 0.0)
    if dead_C is not None:
        step_C.masked_fill_(dead_C, NEVER)  # -inf - -inf is nan
    order_C = (frontier.rank.flatten() * (size + 1)).index_select(0, row_C)
    order_C += code_C
    at_BN, real_BN = _columns(count_R.view(-1, width).sum(1), len(row_C))
    return Candidates(
        score_C=frontier.score.flatten().index_select(0, row_C) + step_C,
        step_C=step_C,
        node_C=node_C,
        code_C=code_C,
        row_C=row_C,
        order_C=order_C,
        at_BN=at_BN,
        real_BN=real_BN,
        width=width,
    )


def ranking_key(score: Tensor, order: Tensor) -> Tensor:
    """int64 that falls with the place of a candidate: by score, then by SID.

    `topk` leaves the order of ties undefined; among these keys there are none.

    Args:
        score: float32 of any shape.
        order: int64 below 2^32, different for the candidates of one user.
    """
    bits = (score + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal to 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # IEEE 754 floats sort as these integers
    return (ordered.long() << 32).sub_(order)


def _columns(count_B: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """(B, N) where each user's candidates are among all, and which of these entries are real."""
    column_N = torch.arange(int(count_B.max()), device=count_B.device)
    first_B1 = (count_B.cumsum(0) - count_B).unsqueeze(1)
    real_BN = column_N < count_B.unsqueeze(1)
    return (first_B1 + column_N).clamp_(max=total - 1), real_BN


def _log_sum_exp(value_C: Tensor, count_R: Tensor, row_C: Tensor) -> Tensor:
    """(R,) log of the sum of exp(value) over each row's candidates."""
    # segment_reduce adds in a fixed order, on a GPU too, where scatter_add does not.
    top_R = torch.segment_reduce(value_C, "max", lengths=count_R, unsafe=True, initial=NEVER)
    top_R = top_R.masked_fill_(top_R == NEVER, 0.0)
    sum_R = torch.segment_reduce(
        (value_C - top_R.index_select(0, row_C)).exp_(),
        "sum",
        lengths=count_R,
        unsafe=True,
        initial=0.0,
    )
    return sum_R.log_() + top_R
