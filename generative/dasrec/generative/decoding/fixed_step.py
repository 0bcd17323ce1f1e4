"""One level of a beam search in fixed shapes: from the beams' states to the next beams.

Shape letters: B users, W beams, M most children of a node, N candidates of a user, E excluded items
(padded), k items asked for, K codes of a level, X the width of `LevelHead.states`.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dasrec.generative.decoding.candidates import NEVER, ranking_key
from dasrec.generative.decoding.fixed_index import FixedIndex
from dasrec.generative.decoding.head import LevelHead, Normalize

_CANDIDATES_PER_CHUNK = 2**25
"""Candidates scored at a time; about 40 bytes of memory each."""


class Front(NamedTuple):
    """The beams of one level; -inf where there is none."""

    node: Tensor
    """(B, W) in the numbers of `FixedIndex`"""
    score: Tensor
    """(B, W) float32"""
    token: Tensor
    """(B, W)"""
    parent: Tensor
    """(B, W)"""
    dropped: Tensor
    """(B,) best score of a candidate that was not kept, so far"""


def root(batch_size: int, device: torch.device) -> Front:
    """The beams before the first level: one per user."""
    zero_B1 = torch.zeros(batch_size, 1, dtype=torch.int64, device=device)
    never_B = torch.full_like(zero_B1[:, 0], NEVER, dtype=torch.float32)
    return Front(zero_B1, zero_B1.float(), zero_B1, zero_B1, never_B)


class FixedStep:
    """Scores and chooses candidates without reading anything back from the device.

    Attributes:
        widths: Beams after each level: no more than there can be.
    """

    def __init__(
        self,
        head: LevelHead,
        index: FixedIndex,
        num_beams: int,
        num_items: int,
        normalize: Normalize,
    ) -> None:
        """Arguments as of `FixedShapeSearch`."""
        self._head, self._index = head, index
        self._k, self._normalize = num_items, normalize
        self.widths: list[int] = []
        most = 1
        for branch in index.branch:
            most = min(max(num_beams, num_items), most * branch)
            self.widths.append(most)

    def extend(self, states: Tensor, front: Front, excluded_BE: Tensor, level: int) -> Front:
        """Keep the best children of the beams; some users at a time, to bound memory."""
        logits_BWK = self._head.logits(states, level)
        log_z_BW = self._head.log_normalizer(states, logits_BWK, self._normalize)
        candidates = states.shape[1] * self._index.branch[level]
        users = max(1, _CANDIDATES_PER_CHUNK // candidates)
        inputs = (logits_BWK, log_z_BW, excluded_BE, *front)
        chunks = zip(*(values.split(users) for values in inputs), strict=True)
        parts = [self._some(z[0], z[1], z[2], Front(*z[3:]), level) for z in chunks]
        return Front(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def _some(
        self,
        logits_BWK: Tensor,
        log_z_BW: Tensor,
        excluded_BE: Tensor,
        front: Front,
        level: int,
    ) -> Front:
        node_BWM, code_BWM, real_BWM = self._index.children(level, front.node)
        real_BWM &= (front.score > NEVER).unsqueeze(-1)
        if excluded_BE.shape[1]:
            alive_BN = self._index.alive(level, node_BWM.flatten(1), excluded_BE)
            real_BWM &= alive_BN.view_as(real_BWM)
        step_BWM = logits_BWK.gather(-1, code_BWM.clamp(max=logits_BWK.shape[-1] - 1))
        if self._normalize == "trie":
            log_z_BW = step_BWM.masked_fill(~real_BWM, NEVER).logsumexp(-1)
        step_BWM = step_BWM - log_z_BW.unsqueeze(-1)
        if self._index.level_padded[level]:
            step_BWM = step_BWM.masked_fill(code_BWM == logits_BWK.shape[-1], 0.0)
        score_BWM = (front.score.unsqueeze(-1) + step_BWM).masked_fill_(~real_BWM, NEVER)

        score_BN, node_BN = score_BWM.flatten(1), node_BWM.flatten(1)
        width = self.widths[level]
        best_BV = ranking_key(score_BN, node_BN).topk(min(width + 1, score_BN.shape[1])).indices
        dropped_B = front.dropped
        if best_BV.shape[1] > width:
            dropped_B = dropped_B.maximum(score_BN.gather(1, best_BV[:, width:]).squeeze(1))
        best_BW = best_BV[:, :width]
        table = self._index.level_token_ids[level]
        code_BW = code_BWM.flatten(1).gather(1, best_BW)
        return Front(
            node=node_BN.gather(1, best_BW),
            score=score_BN.gather(1, best_BW),
            token=table[code_BW.clamp_(max=len(table) - 1)],
            parent=best_BW // node_BWM.shape[-1],
            dropped=dropped_B,
        )

    def items(self, front: Front, excluded_BE: Tensor) -> tuple[Tensor, ...]:
        """The fields of `SearchResult`."""
        item_BkM = self._index.items(front.node[:, : self._k], excluded_BE)
        score_Bk = front.score[:, : self._k]
        item_BN = item_BkM.masked_fill((score_Bk == NEVER).unsqueeze(-1), -1).flatten(1)
        score_BN = score_Bk.repeat_interleave(item_BkM.shape[-1], 1)
        first_Bk = (item_BN < 0).to(torch.uint8).argsort(dim=1, stable=True)[:, : self._k]
        item_Bk = item_BN.gather(1, first_Bk)
        score_Bk = score_BN.gather(1, first_Bk).masked_fill_(item_Bk < 0, NEVER)
        missing = (0, self._k - item_Bk.shape[1])
        item_Bk = nn.functional.pad(item_Bk, missing, value=-1)
        score_Bk = nn.functional.pad(score_Bk, missing, value=NEVER)
        proven_B = (score_Bk > front.dropped.unsqueeze(1)).sum(1)
        return item_Bk, score_Bk, (item_Bk >= 0).sum(1), proven_B
