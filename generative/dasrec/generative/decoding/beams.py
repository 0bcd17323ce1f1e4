"""Running a causal LM over the beams of many users: the prompt once, then one token per beam.

`TreeBeams` keeps one key-value row per user: beams lie side by side in the sequence axis, and a
4-D mask lets each see the prompt and its own ancestors only. Nothing is repeated or reordered.
`ExpandBeams` repeats the row per beam and reorders it, for models that cannot take such a mask.

Shape letters: B users, T prompt tokens, W beams now, X the width of `LevelHead.states`.
"""

from typing import Literal, Protocol

from torch import Tensor

from dasrec.generative.decoding.expand_beams import ExpandBeams
from dasrec.generative.decoding.head import LevelHead
from dasrec.generative.decoding.prefix_cache import PromptPrefix
from dasrec.generative.decoding.slot_cache import slot_cache
from dasrec.generative.decoding.tree_beams import TreeBeams

Mode = Literal["auto", "tree", "expand"]
CacheKind = Literal["dynamic", "static"]
"""Whether keys and values grow by copying, or are written into memory taken at the start."""


class Beams(Protocol):
    """The state of one batch's beams inside the model."""

    def prefill(self) -> Tensor:
        """(B, 1, X) states after the prompt."""

    def advance(self, token_BW: Tensor, parent_BW: Tensor, live_BW: Tensor | None = None) -> Tensor:
        """(B, W, X) states after one more token per beam.

        Args:
            token_BW: Vocabulary ids.
            parent_BW: Index of each beam's parent among the beams before.
            live_BW: bool, the beams whose states are wanted; those of others and of their
                descendants are zero or meaningless. None wants all.
        """


def start_beams(
    head: LevelHead,
    input_ids: Tensor,
    attention_mask: Tensor,
    mode: Mode,
    *,
    cache: CacheKind = "dynamic",
    num_slots: int = 0,
    prefix: PromptPrefix | None = None,
) -> Beams:
    """The beams of a batch; "auto" takes the tree wherever the model can take its mask.

    Args:
        head: The model.
        input_ids: (B, T) prompts, padded on the left.
        attention_mask: (B, T) 1 at real tokens.
        mode: How beams are kept.
        cache: "static" takes the memory at the start, for `num_slots` tokens after the prompt.
        num_slots: Tokens of all steps a user, the sum of the beams that are advanced.
        prefix: What comes before every prompt.

    Raises:
        ValueError: A tree of a model that cannot take its mask, a static cache or a prefix without
            the tree, or a prefix of other weights.
    """
    if mode == "auto":
        mode = "tree" if takes_tree_mask(head) else "expand"
    if mode == "expand":
        _refuse(cache == "static", "cache: 'static'", "; leave it 'dynamic'")
        _refuse(prefix is not None, "prefix", ", not this model; write it into the prompts")
        return ExpandBeams(head, input_ids, attention_mask)
    if not takes_tree_mask(head):
        raise ValueError(
            "mode: 'tree' needs a model that takes the mask of a tree, not this one; leave it"
            " 'auto', or load the model with attn_implementation='sdpa'"
        )
    length = input_ids.shape[1]
    if prefix is not None:
        prefix.check(head.model)
        length += len(prefix)
    slots = slot_cache(length + num_slots) if cache == "static" else None
    return TreeBeams(head, input_ids, attention_mask, slots, prefix)


def _refuse(asked: bool, what: str, instead: str) -> None:
    if asked:
        raise ValueError(f"{what}: needs mode 'tree'{instead}")


def takes_tree_mask(head: LevelHead) -> bool:
    """Whether a model's attention takes a mask of its own for each pair of tokens.

    And none of its own making by places in the cache, where the beams of a tree lie side by side:
    the windows of GPT-Neo's local layers, or ALiBi (Bloom, MPT, Falcon), which is all that a
    decoder without positions has.
    """
    config = head.config
    kinds = set(getattr(config, "layer_types", None) or ())
    return (
        config._attn_implementation in {"eager", "sdpa"}
        and kinds <= {"full_attention", "sliding_attention"}
        and not getattr(config, "alibi", False)
        and "local" not in (getattr(config, "attention_layers", None) or ())
        and "position_ids" in head.arguments
    )
