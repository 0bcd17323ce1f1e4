"""Beams side by side in the sequence axis of one key-value row per user.

Shape letters: B users, T prompt tokens, N prompt tokens with the shared prefix, W beams now,
F beams run through the model, S steps so far, X the width of `LevelHead.states`.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from dasrec.generative.decoding.head import LevelHead
from dasrec.generative.decoding.live_rows import first_live, spread, take
from dasrec.generative.decoding.masks import per_layer_kind, prompt_mask, tree_mask
from dasrec.generative.decoding.prefix_cache import PromptPrefix
from dasrec.generative.decoding.prompts import prompt_positions


class TreeBeams:
    """Beams as a tree of tokens in the sequence axis of one row per user."""

    def __init__(
        self,
        head: LevelHead,
        input_ids: Tensor,
        attention_mask: Tensor,
        cache: Any = None,
        prefix: PromptPrefix | None = None,
        *,
        right_padded: bool = False,
        step_head: LevelHead | None = None,
    ) -> None:
        """Prepare one batch.

        Args:
            head: The model.
            input_ids: (B, T).
            attention_mask: (B, T) 1 at real tokens, wherever the padding is.
            cache: An empty one; a growing one by default.
            prefix: What comes before every prompt.
            right_padded: Padding is at the end of each prompt, and there is no prefix.
            step_head: What runs the beams, e.g. a compiled one; `head` by default.
        """
        self._head = head
        self._step_head = step_head or head
        self._right_padded = right_padded
        self._input_ids = input_ids
        self._prefix = prefix
        self._real_BN = attention_mask.bool()
        if prefix is not None:
            self._real_BN = torch.nn.functional.pad(self._real_BN, (len(prefix), 0), value=True)
        self._length_B = self._real_BN.sum(1)
        # Without a config all layers keep all keys; sliding layers get a mask instead of a crop,
        # which would cut the tree at the wrong place.
        self._cache: Any = DynamicCache() if cache is None else cache
        self._path_BWS: Tensor | None = None  # slot of each ancestor, counted from the prompt's end
        self._num_slots = 0

    def prefill(self) -> Tensor:
        """(B, 1, X) states after the last real token of each prompt."""
        batch, length = self._input_ids.shape
        mask: Any = self._real_BN.long()
        if self._prefix is not None:
            self._prefix.write(self._cache, batch)
            mask = per_layer_kind(
                self._head.config,
                lambda window: prompt_mask(self._real_BN, length, window, self._head.dtype),
            )
        states = self._head.states(
            last_only=not self._right_padded,
            input_ids=self._input_ids,
            attention_mask=None if self._right_padded else mask,
            position_ids=prompt_positions(self._real_BN)[:, -length:],
            past_key_values=self._cache,
            use_cache=True,
        )
        if self._right_padded:
            states = take(states, self._length_B.unsqueeze(1) - 1)
        self._nothing_B1X = torch.zeros_like(states)
        return states

    def advance(self, token_BW: Tensor, parent_BW: Tensor, live_BW: Tensor | None = None) -> Tensor:
        """(B, W, X) states after one more token per beam."""
        if live_BW is None:
            self._append(parent_BW, torch.arange(token_BW.shape[1], device=token_BW.device))
            return self._run(token_BW, self._path())
        row_BF = first_live(live_BW)
        count = row_BF.shape[1]
        slot_BW = torch.zeros_like(parent_BW)  # of beams left out: never looked up
        slot_BW.scatter_(1, row_BF, torch.arange(count, device=row_BF.device).expand_as(row_BF))
        self._append(parent_BW, slot_BW)
        if not count:
            return self._nothing_B1X.expand(-1, token_BW.shape[1], -1)
        path_BFS = take(self._path(), row_BF)
        return spread(self._run(token_BW.gather(1, row_BF), path_BFS), row_BF, token_BW.shape[1])

    def _path(self) -> Tensor:
        assert self._path_BWS is not None
        return self._path_BWS

    def _append(self, parent_BW: Tensor, offset: Tensor) -> None:
        """Lengthen the beams' paths; `offset` counts slots from the first of this step."""
        slot_BW1 = (offset + self._num_slots).expand_as(parent_BW).unsqueeze(-1)
        if self._path_BWS is None:
            self._path_BWS = slot_BW1
        else:
            self._path_BWS = torch.cat([take(self._path_BWS, parent_BW), slot_BW1], -1)

    def _run(self, token_BF: Tensor, path_BFS: Tensor) -> Tensor:
        self._num_slots += token_BF.shape[1]
        step = path_BFS.shape[-1] - 1
        return self._step_head.states(
            input_ids=token_BF,
            attention_mask=per_layer_kind(
                self._head.config,
                lambda window: tree_mask(
                    self._real_BN, path_BFS, self._num_slots, window, self._head.dtype
                ),
            ),
            position_ids=(self._length_B + step).unsqueeze(1).expand_as(token_BF),
            past_key_values=self._cache,
            use_cache=True,
        )
