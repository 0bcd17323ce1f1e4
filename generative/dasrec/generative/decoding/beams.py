"""Running a causal LM over the beams of many users: the prompt once, then one token per beam.

`TreeBeams` keeps one key-value row per user: beams lie side by side in the sequence axis, and a
4-D mask lets each see the prompt and its own ancestors only. Nothing is repeated or reordered.
`ExpandBeams` repeats the row per beam and reorders it, for models that cannot take such a mask.

Shape letters: B users, T prompt tokens, W beams now, P beams one step before, S steps so far,
X the width of `LevelHead.states`.
"""

from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from dasrec.generative.decoding.head import LevelHead

Mode = Literal["auto", "tree", "expand"]


class Beams(Protocol):
    """The state of one batch's beams inside the model."""

    def prefill(self) -> Tensor:
        """(B, 1, X) states after the prompt."""

    def advance(self, token_BW: Tensor, parent_BW: Tensor) -> Tensor:
        """(B, W, X) states after one more token per beam; `parent_BW` indexes the beams before."""


class TreeBeams:
    """Beams as a tree of tokens in the sequence axis of one row per user."""

    def __init__(self, head: LevelHead, input_ids: Tensor, attention_mask: Tensor) -> None:
        self._head = head
        self._input_ids = input_ids
        self._prompt_BT = attention_mask.bool()
        self._length_B = self._prompt_BT.sum(1)
        # Without a config all layers keep all keys; sliding layers get a mask instead of a crop,
        # which would cut the tree at the wrong place.
        self._cache: Any = DynamicCache()
        self._path_BWS: Tensor | None = None  # slot of each ancestor, counted from the prompt's end
        self._num_slots = 0

    def prefill(self) -> Tensor:
        """(B, 1, X) states after the prompt."""
        return self._head.states(
            last_only=True,
            input_ids=self._input_ids,
            attention_mask=self._prompt_BT.long(),
            position_ids=prompt_positions(self._prompt_BT),
            past_key_values=self._cache,
            use_cache=True,
        )

    def advance(self, token_BW: Tensor, parent_BW: Tensor) -> Tensor:
        """(B, W, X) states after one more token per beam."""
        batch, width = token_BW.shape
        slot_BW1 = torch.arange(width, device=token_BW.device).expand(batch, width).unsqueeze(-1)
        slot_BW1 = slot_BW1 + self._num_slots
        if self._path_BWS is None:
            self._path_BWS = slot_BW1
        else:
            ancestors = parent_BW.unsqueeze(-1).expand(-1, -1, self._path_BWS.shape[-1])
            self._path_BWS = torch.cat([self._path_BWS.gather(1, ancestors), slot_BW1], -1)
        self._num_slots += width
        step = self._path_BWS.shape[-1] - 1
        return self._head.states(
            input_ids=token_BW,
            attention_mask=self._masks(),
            position_ids=(self._length_B + step).unsqueeze(1).expand(batch, width),
            past_key_values=self._cache,
            use_cache=True,
        )

    def _masks(self) -> Tensor | dict[str, Tensor]:
        """The additive mask (B, 1, W, T + slots), per kind of layer where there are several."""
        config = self._head.config
        kinds = set(getattr(config, "layer_types", None) or ())
        window = getattr(config, "sliding_window", None)
        if "sliding_attention" in kinds:
            return {"full_attention": self._mask(None), "sliding_attention": self._mask(window)}
        return self._mask(window if not kinds else None)

    def _mask(self, window: int | None) -> Tensor:
        assert self._path_BWS is not None
        batch, width, depth = self._path_BWS.shape
        visible_BT = self._prompt_BT
        seen_BWS = torch.ones_like(self._path_BWS, dtype=torch.bool)
        if window is not None:
            # A query at position p sees positions above p - window.
            from_end = visible_BT.flip(1).cumsum(1).flip(1)  # 1 = the prompt's last token
            visible_BT = visible_BT & (from_end + depth - 1 < window)
            seen_BWS[..., : max(0, depth - window)] = False
        num_prompt, total = visible_BT.shape[1], visible_BT.shape[1] + self._num_slots
        dtype = self._head.dtype
        blocked = torch.finfo(dtype).min
        mask = torch.full((batch, width, total), blocked, dtype=dtype, device=visible_BT.device)
        prompt = torch.zeros_like(visible_BT, dtype=dtype).masked_fill_(~visible_BT, blocked)
        mask[..., :num_prompt] = prompt.unsqueeze(1)
        own_BWS = torch.zeros_like(seen_BWS, dtype=dtype).masked_fill_(~seen_BWS, blocked)
        mask.scatter_(2, self._path_BWS + num_prompt, own_BWS)
        return mask.unsqueeze(1)


class ExpandBeams:
    """One cache row per beam, repeated after the prompt and reordered at every step."""

    def __init__(self, head: LevelHead, input_ids: Tensor, attention_mask: Tensor) -> None:
        self._head = head
        self._input_ids = input_ids
        self._mask = attention_mask.long()
        self._cache: Any = DynamicCache(config=head.config)
        self._num_beams = 0

    def prefill(self) -> Tensor:
        """(B, 1, X) states after the prompt."""
        return self._head.states(
            last_only=True,
            input_ids=self._input_ids,
            attention_mask=self._mask,
            position_ids=prompt_positions(self._mask),
            past_key_values=self._cache,
            use_cache=True,
        )

    def advance(self, token_BW: Tensor, parent_BW: Tensor) -> Tensor:
        """(B, W, X) states after one more token per beam."""
        batch, width = token_BW.shape
        first_B1 = torch.arange(batch, device=token_BW.device).unsqueeze(1)
        row = (first_B1 * max(1, self._num_beams) + parent_BW).reshape(-1)
        self._cache.reorder_cache(row)  # also the repetition: rows may be named several times
        self._mask = torch.cat([self._mask[row], self._mask.new_ones(batch * width, 1)], 1)
        self._num_beams = width
        states = self._head.states(
            input_ids=token_BW.reshape(-1, 1),
            attention_mask=self._mask,
            position_ids=self._mask.sum(1, keepdim=True) - 1,
            past_key_values=self._cache,
            use_cache=True,
        )
        return states.view(batch, width, -1)


def prompt_positions(attention_mask: Tensor) -> Tensor:
    """(B, T) position of each prompt token, counted from the row's first real one."""
    return (attention_mask.long().cumsum(1) - 1).clamp_(min=0)


def start_beams(head: LevelHead, input_ids: Tensor, attention_mask: Tensor, mode: Mode) -> Beams:
    """The beams of a batch; "auto" takes the tree wherever the model can take its mask."""
    if mode == "auto":
        mode = "tree" if _takes_tree_mask(head.config) else "expand"
    kind = TreeBeams if mode == "tree" else ExpandBeams
    return kind(head, input_ids, attention_mask)


def _takes_tree_mask(config: Any) -> bool:
    kinds = set(getattr(config, "layer_types", None) or ())
    return (
        config._attn_implementation in {"eager", "sdpa"}
        and kinds <= {"full_attention", "sliding_attention"}
        and not getattr(config, "alibi", False)
    )


def check_prompts(input_ids: Tensor, attention_mask: Tensor) -> None:
    """Refuse what is not a batch of non-empty prompts padded on the left.

    Raises:
        ValueError: Unequal shapes, or a row that does not end in a real token.
    """
    if input_ids.ndim != 2 or input_ids.shape != attention_mask.shape or 0 in input_ids.shape:
        raise ValueError(
            f"input_ids and attention_mask: two equal (B, T) shapes needed, got"
            f" {tuple(input_ids.shape)} and {tuple(attention_mask.shape)}"
        )
    if not bool(attention_mask[:, -1].all()):
        raise ValueError(
            "attention_mask: a prompt is empty or padded on the right, got a row ending in 0;"
            " pad on the left"
        )


def check_length(head: LevelHead, length: int) -> None:
    """Refuse sequences longer than the model's positions.

    Raises:
        ValueError: `length` positions are too many.
    """
    limit = getattr(head.config, "max_position_embeddings", None)
    if limit is not None and length > limit:
        raise ValueError(
            f"input_ids: prompt and SID take {length} positions, the model has {limit}; shorten"
            " the histories"
        )
