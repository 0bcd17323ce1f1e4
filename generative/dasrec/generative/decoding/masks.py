"""Additive attention masks of a prompt behind a cached prefix, and of a tree of tokens behind both.

Shape letters: B users, T tokens of the pass, N prompt tokens with what is cached before them,
W beams, S steps so far.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def per_layer_kind(config: Any, make: Callable[[int | None], Tensor]) -> Tensor | dict[str, Tensor]:
    """`make(window)`, once per kind of layer where the model has several."""
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if "sliding_attention" in kinds:
        return {"full_attention": make(None), "sliding_attention": make(window)}
    return make(window if not kinds else None)


def prompt_mask(
    real_BN: Tensor, num_queries: int, window: int | None, dtype: torch.dtype
) -> Tensor:
    """(B, 1, T, N): the last T tokens see what is real before them, at most `window` tokens."""
    num_keys = real_BN.shape[1]
    key_N = torch.arange(num_keys, device=real_BN.device)
    seen_BTN = (key_N <= key_N[-num_queries:].unsqueeze(1)) & real_BN.unsqueeze(1)
    if window is not None:
        # By position, not by slot: padding may lie between the prefix and the prompt.
        position_BN = real_BN.long().cumsum(1)
        oldest_BT1 = (position_BN[:, -num_queries:] - window).unsqueeze(2)
        seen_BTN = seen_BTN & (position_BN.unsqueeze(1) > oldest_BT1)
    return _additive(seen_BTN, dtype).unsqueeze(1)


def tree_mask(
    real_BN: Tensor, path_BWS: Tensor, num_slots: int, window: int | None, dtype: torch.dtype
) -> Tensor:
    """(B, 1, W, N + slots): each beam sees the prompt and its own ancestors.

    Args:
        real_BN: Which prompt tokens are no padding.
        path_BWS: Slot of each of a beam's S tokens, counted from the prompt's end.
        num_slots: Tokens of all beams of all steps so far.
        window: A query at position p sees positions above p - window; None sees all.
        dtype: Of the mask.
    """
    batch, width, depth = path_BWS.shape
    own_BWS = torch.ones_like(path_BWS, dtype=torch.bool)
    if window is not None:
        from_end_BN = real_BN.flip(1).long().cumsum(1).flip(1)  # 1 = the prompt's last token
        real_BN = real_BN & (from_end_BN + depth - 1 < window)
        own_BWS[..., : max(0, depth - window)] = False
    num_prompt = real_BN.shape[1]
    mask = _additive(real_BN.new_zeros(batch, width, num_prompt + num_slots), dtype)
    mask[..., :num_prompt] = _additive(real_BN, dtype).unsqueeze(1)
    mask.scatter_(2, path_BWS + num_prompt, _additive(own_BWS, dtype))
    return mask.unsqueeze(1)


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where seen, else the lowest number."""
    zeros = torch.zeros_like(seen, dtype=dtype)
    return zeros.masked_fill_(~seen, torch.finfo(dtype).min)
