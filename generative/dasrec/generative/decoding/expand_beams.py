"""One key-value row per beam: for models that cannot take the mask of a tree.

Shape letters: B users, T prompt tokens, W beams now, P beams one step before, F beams run through
the model, X the width of `LevelHead.states`.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from dasrec.generative.decoding.head import LevelHead
from dasrec.generative.decoding.live_rows import first_live, spread
from dasrec.generative.decoding.prompts import prompt_positions


class ExpandBeams:
    """One cache row per beam, repeated after the prompt and reordered at every step."""

    def __init__(self, head: LevelHead, input_ids: Tensor, attention_mask: Tensor) -> None:
        """Prepare one batch; arguments as of `TreeBeams`, padded on the left."""
        self._head = head
        self._input_ids = input_ids
        self._mask = attention_mask.long()
        self._cache: Any = DynamicCache(config=head.config)
        self._place_BP: Tensor | None = None  # which of a user's cache rows a beam has
        self._num_rows = 1

    def prefill(self) -> Tensor:
        """(B, 1, X) states after the prompt."""
        states = self._head.states(
            last_only=True,
            input_ids=self._input_ids,
            attention_mask=self._mask,
            position_ids=prompt_positions(self._mask),
            past_key_values=self._cache,
            use_cache=True,
        )
        self._nothing_B1X = torch.zeros_like(states)
        return states

    def advance(self, token_BW: Tensor, parent_BW: Tensor, live_BW: Tensor | None = None) -> Tensor:
        """(B, W, X) states after one more token per beam."""
        width = token_BW.shape[1]
        if self._place_BP is not None:
            parent_BW = self._place_BP.gather(1, parent_BW)
        place_BW = torch.arange(width, device=token_BW.device).expand_as(token_BW)
        if live_BW is None:
            self._place_BP = place_BW
            return self._run(token_BW, parent_BW)
        row_BF = first_live(live_BW)
        self._place_BP = torch.zeros_like(parent_BW).scatter_(1, row_BF, place_BW)
        if not row_BF.shape[1]:
            return self._nothing_B1X.expand(-1, width, -1)
        states_BFX = self._run(token_BW.gather(1, row_BF), parent_BW.gather(1, row_BF))
        return spread(states_BFX, row_BF, width)

    def _run(self, token_BF: Tensor, parent_BF: Tensor) -> Tensor:
        batch, width = token_BF.shape
        first_B1 = torch.arange(batch, device=token_BF.device).unsqueeze(1)
        row = (first_B1 * self._num_rows + parent_BF).reshape(-1)
        self._cache.reorder_cache(row)  # also the repetition: rows may be named several times
        self._mask = torch.cat([self._mask[row], self._mask.new_ones(batch * width, 1)], 1)
        self._num_rows = width
        states = self._head.states(
            input_ids=token_BF.reshape(-1, 1),
            attention_mask=self._mask,
            position_ids=self._mask.sum(1, keepdim=True) - 1,
            past_key_values=self._cache,
            use_cache=True,
        )
        return states.view(batch, width, -1)
