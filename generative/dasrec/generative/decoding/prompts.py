"""What the decoding takes as prompts: a rectangle of tokens, padded on the left.

Shape letters: B users, T prompt tokens.
"""

from torch import Tensor

from dasrec.generative.decoding.head import LevelHead


def prompt_positions(attention_mask: Tensor) -> Tensor:
    """(B, T) position of each prompt token, counted from the row's first real one."""
    return (attention_mask.long().cumsum(1) - 1).clamp_(min=0)


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
