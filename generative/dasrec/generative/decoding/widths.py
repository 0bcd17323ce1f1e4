"""How many beams each user gets at each level.

Shape letters: B users, k items asked for.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def per_user(name: str, number: int | Sequence[int] | Tensor, batch_size: int) -> Tensor:
    """(B,) int64 on the CPU, of one number for all users, or of one for each.

    Raises:
        ValueError: Not one per user, or one below 1.
    """
    number_B = torch.as_tensor(number, dtype=torch.int64, device="cpu")
    if number_B.ndim == 0:
        number_B = number_B.expand(batch_size)
    if tuple(number_B.shape) != (batch_size,):
        raise ValueError(
            f"{name}: one number, or one for each of {batch_size} users needed, got shape"
            f" {tuple(number_B.shape)}"
        )
    if int(number_B.min()) < 1:
        raise ValueError(f"{name}: at least 1 needed, got {int(number_B.min())}")
    return number_B


def beam_widths(
    num_items_B: Tensor,
    num_beams_B: Tensor,
    widths: Sequence[int] | None,
    num_levels: int,
) -> list[Tensor]:
    """Per level (B,) beams: at least k, since each is sure of one item only.

    Raises:
        ValueError: Not one width per level, or one below 1.
    """
    if widths is None:
        return [torch.maximum(num_beams_B, num_items_B)] * num_levels
    if len(widths) != num_levels or min(widths) < 1:
        raise ValueError(
            f"widths: {num_levels} numbers of at least 1 needed, one per level, got {list(widths)}"
        )
    return [num_items_B.clamp(min=width) for width in widths]
