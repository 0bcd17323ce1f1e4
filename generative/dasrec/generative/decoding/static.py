"""Beam search whose every shape is known beforehand: for CUDA graphs, and for torch.compile.

A GPU runs a small batch faster than Python can ask for it. Here nothing of a search depends on
what the tensors hold, so that all its work is recorded once per prompt length and then replayed.

Shape letters: B users, T prompt tokens (padded), W beams, M most children of a node, N candidates
of a user, k items asked for, X the width of `LevelHead.states`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dasrec.generative.decoding.candidates import NEVER, ranking_key
from dasrec.generative.decoding.cuda_graph import Replay
from dasrec.generative.decoding.fixed_index import FixedIndex
from dasrec.generative.decoding.head import LevelHead, Normalize
from dasrec.generative.decoding.index import SidIndex
from dasrec.generative.decoding.prompts import check_length, check_prompts
from dasrec.generative.decoding.search import SearchResult
from dasrec.generative.decoding.slot_cache import slot_cache
from dasrec.generative.decoding.tree_beams import TreeBeams

_CANDIDATES_PER_CHUNK = 2**25
"""Candidates scored at a time; about 40 bytes of memory each."""


class _Front(NamedTuple):
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


class FixedShapeSearch:
    """`constrained_beam_search` for one model, catalogue and list length, again and again.

    It gives the same items and scores, to rounding. Prompts are padded to the next of a few
    lengths and batches to `batch_size`; memory for keys and values is taken once. Filters and
    a changing catalogue are left to `constrained_beam_search`: make this anew for a new snapshot.

    Weights may change in place, since nothing is copied from the model. Adapters may be switched
    or merged only where no `cuda_graph` was recorded.
    """

    def __init__(
        self,
        model: nn.Module,
        trie: SidIndex,
        *,
        batch_size: int,
        prompt_lengths: Sequence[int],
        num_beams: int,
        num_items: int,
        normalize: Normalize = "level",
        compiled: bool = False,
        cuda_graph: bool = False,
    ) -> None:
        """Prepare the search; recording and compiling wait for the first batch of each length.

        Args:
            model: As in `constrained_beam_search`, of a kind that takes the mask of a tree.
            trie: The catalogue.
            batch_size: B of every pass.
            prompt_lengths: T that prompts are padded to, the smallest that fits.
            num_beams: Beams kept per level; raised to `num_items` where lower.
            num_items: k.
            normalize: What a code's probability is over, see `Normalize`.
            compiled: Compile the model's passes over the beams with torch.compile.
            cuda_graph: Record each search as a CUDA graph.

        Raises:
            ValueError: Options that do not fit each other or the model.
        """
        for name, value in (
            ("batch_size", batch_size), ("num_beams", num_beams), ("num_items", num_items),
            ("prompt_lengths", min(prompt_lengths, default=0)),
        ):  # fmt: skip
            if value < 1:
                raise ValueError(f"{name}: at least 1 needed, got {value}")
        self._device = next(model.parameters()).device
        if cuda_graph and self._device.type != "cuda":
            raise ValueError(f"cuda_graph: needs a model on a CUDA device, not {self._device}")
        self._head = LevelHead(model, trie.level_token_ids)
        self._step_head = self._head.compiled() if compiled else self._head
        self._index = FixedIndex(trie.to(self._device))
        self._lengths = sorted(prompt_lengths)
        check_length(self._head, self._lengths[-1] + trie.num_levels - 1)
        self._batch, self._k, self._normalize = batch_size, num_items, normalize
        self._widths = self._level_widths(max(num_beams, num_items))
        self._cache = slot_cache(self._lengths[-1] + sum(self._widths[:-1]))
        self._cuda_graph = cuda_graph
        self._runs: dict[int, Callable[[Tensor, Tensor], tuple[Tensor, ...]]] = {}

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> SearchResult:
        """Search for any number of users.

        Args:
            input_ids: (B, T) prompts, padded on the left.
            attention_mask: (B, T) 1 at real tokens.

        Raises:
            ValueError: Prompts that are longer than the longest of `prompt_lengths`.
        """
        check_prompts(input_ids, attention_mask)
        found = [
            self._batch_of(ids, mask)
            for ids, mask in zip(
                input_ids.split(self._batch), attention_mask.split(self._batch), strict=True
            )
        ]
        return SearchResult(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _batch_of(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        count, given = input_ids.shape
        fitting = [length for length in self._lengths if length >= given]
        if not fitting:
            raise ValueError(
                f"input_ids: {given} tokens, but prompt_lengths end at {self._lengths[-1]}; shorten"
                " the histories or name a longer one"
            )
        # Missing users are copies of the last. Padding goes to the right, a copy of the last token:
        # what comes before cannot see it, so the pass over the prompts needs no mask and takes the
        # fast causal attention.
        row_B = torch.arange(self._batch, device=self._device).clamp_(max=count - 1)
        length_B = attention_mask.sum(1)[row_B]
        from_BT = torch.arange(fitting[0], device=self._device) + (given - length_B.unsqueeze(1))
        ids_BT = input_ids[row_B].gather(1, from_BT.clamp_(max=given - 1))
        run = self._runs.get(fitting[0])
        if run is None:
            run = Replay(self._run, ids_BT, length_B) if self._cuda_graph else self._run
            self._runs[fitting[0]] = run
        return tuple(values[:count].clone() for values in run(ids_BT, length_B))

    def _run(self, ids_BT: Tensor, length_B: Tensor) -> tuple[Tensor, ...]:
        """A whole search, without reading anything back from the device."""
        place_T = torch.arange(ids_BT.shape[1], device=self._device)
        self._cache.reset()
        beams = TreeBeams(
            self._head,
            ids_BT,
            place_T < length_B.unsqueeze(1),
            self._cache,
            right_padded=True,
            step_head=self._step_head,
        )
        states = beams.prefill()
        zero_B1 = torch.zeros(len(ids_BT), 1, dtype=torch.int64, device=self._device)
        never_B = torch.full_like(zero_B1[:, 0], NEVER, dtype=torch.float32)
        front = _Front(zero_B1, zero_B1.float(), zero_B1, zero_B1, never_B)
        for level in range(len(self._widths)):
            if level:
                states = beams.advance(front.token, front.parent)
            front = self._extend(states, front, level)
        return self._items(front)

    def _extend(self, states: Tensor, front: _Front, level: int) -> _Front:
        """Keep the best children of the beams; some users at a time, to bound memory."""
        logits_BWK = self._head.logits(states, level)
        log_z_BW = self._head.log_normalizer(states, logits_BWK, self._normalize)
        candidates = states.shape[1] * self._index.branch[level]
        users = max(1, _CANDIDATES_PER_CHUNK // candidates)
        inputs = (logits_BWK, log_z_BW, *front)
        chunks = zip(*(values.split(users) for values in inputs), strict=True)
        parts = [self._extend_some(z[0], z[1], _Front(*z[2:]), level) for z in chunks]
        return _Front(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def _extend_some(
        self, logits_BWK: Tensor, log_z_BW: Tensor, front: _Front, level: int
    ) -> _Front:
        node_BWM, code_BWM, real_BWM = self._index.children(level, front.node)
        real_BWM &= (front.score > NEVER).unsqueeze(-1)
        step_BWM = logits_BWK.gather(-1, code_BWM.clamp(max=logits_BWK.shape[-1] - 1))
        if self._normalize == "trie":
            log_z_BW = step_BWM.masked_fill(~real_BWM, NEVER).logsumexp(-1)
        step_BWM = step_BWM - log_z_BW.unsqueeze(-1)
        if self._index.level_padded[level]:
            step_BWM = step_BWM.masked_fill(code_BWM == logits_BWK.shape[-1], 0.0)
        score_BWM = (front.score.unsqueeze(-1) + step_BWM).masked_fill_(~real_BWM, NEVER)

        score_BN, node_BN = score_BWM.flatten(1), node_BWM.flatten(1)
        width = self._widths[level]
        best_BV = ranking_key(score_BN, node_BN).topk(min(width + 1, score_BN.shape[1])).indices
        dropped_B = front.dropped
        if best_BV.shape[1] > width:
            dropped_B = dropped_B.maximum(score_BN.gather(1, best_BV[:, width:]).squeeze(1))
        best_BW = best_BV[:, :width]
        table = self._index.level_token_ids[level]
        code_BW = code_BWM.flatten(1).gather(1, best_BW)
        return _Front(
            node=node_BN.gather(1, best_BW),
            score=score_BN.gather(1, best_BW),
            token=table[code_BW.clamp_(max=len(table) - 1)],
            parent=best_BW // node_BWM.shape[-1],
            dropped=dropped_B,
        )

    def _items(self, front: _Front) -> tuple[Tensor, ...]:
        """The fields of `SearchResult`."""
        item_BkM = self._index.items(front.node[:, : self._k])
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

    def _level_widths(self, num_beams: int) -> list[int]:
        """Beams after each level: no more than there can be."""
        widths, most = [], 1
        for branch in self._index.branch:
            most = min(num_beams, most * branch)
            widths.append(most)
        return widths
