"""The trie as a constraint for `generate`, for scripts that keep their own decoding.

`constrained_beam_search` is the fast way; these are for sampling, for other decoding methods, and
for comparison.

Shape letters: R rows (users x beams), V vocabulary.
"""

from collections.abc import Callable

from torch import Tensor

from dasrec.generative.decoding.constraint import SidConstraint
from dasrec.generative.decoding.index import SidIndex


class SidTrieLogitsProcessor:
    """Lets `generate` continue with codes of existing items only.

    Use: `generate(..., logits_processor=LogitsProcessorList([processor]), max_new_tokens=L)`.
    A beam that has already left the trie (beam search keeps some where items are fewer than
    beams) may take any code of its level; its score says that it is not an item.
    """

    def __init__(self, trie: SidIndex, prompt_length: int, after_end: int | None = None) -> None:
        """Prepare the constraint.

        Args:
            trie: The catalogue.
            prompt_length: T, tokens before the first code, left padding included.
            after_end: The token that fills up SIDs shorter than L; needed if there are any.

        Raises:
            ValueError: SIDs of different length, and no `after_end`.
        """
        self._constraint = SidConstraint(trie, after_end)
        self._prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, V) scores, -inf at tokens that lead to no item.

        Raises:
            ValueError: All codes of an item are there already.
        """
        return self._constraint.mask(scores, input_ids[:, self._prompt_length :])


def prefix_allowed_tokens_fn(
    trie: SidIndex, prompt_length: int, after_end: int | None = None
) -> Callable[[int, Tensor], list[int]]:
    """The callback of the same name that `generate` takes; slower than the logits processor.

    Args:
        trie: The catalogue.
        prompt_length: T, tokens before the first code, left padding included.
        after_end: The token that fills up SIDs shorter than L; needed if there are any.

    Raises:
        ValueError: SIDs of different length, and no `after_end`.
    """
    constraint = SidConstraint(trie, after_end)

    def allowed_tokens(batch_id: int, input_ids: Tensor) -> list[int]:
        tokens: list[int] = constraint.allowed(input_ids[None, prompt_length:]).token_C.tolist()
        return tokens

    return allowed_tokens
