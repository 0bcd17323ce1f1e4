"""The trie as a constraint for `generate`, for scripts that keep their own decoding.

`constrained_beam_search` is the fast way; these are for sampling, for other decoding methods, and
for comparison.

Shape letters: R rows (users x beams), S codes generated so far, V vocabulary, C children.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dasrec.generative.decoding.trie import SidTrie


class SidTrieLogitsProcessor:
    """Lets `generate` continue with codes of existing items only.

    Use: `generate(..., logits_processor=LogitsProcessorList([processor]), max_new_tokens=L)`.
    A beam that has already left the trie (beam search keeps some where items are fewer than
    beams) may take any code of its level; its score says that it is not an item.
    """

    def __init__(self, trie: SidTrie, prompt_length: int) -> None:
        """Prepare the constraint.

        Args:
            trie: The catalogue.
            prompt_length: T, tokens before the first code, left padding included.
        """
        self._trie = trie
        self._prompt_length = prompt_length
        self._sorted_tokens = [tokens.sort() for tokens in trie.level_token_ids]
        # (node before, code) of every node as one number; ascending, as nodes are sorted.
        self._keys = [trie.tok[0].long()]
        for starts, tok, size in zip(
            trie.child_start, trie.tok[1:], trie.level_sizes[1:], strict=True
        ):
            count = starts.diff().long()
            parent = torch.arange(len(count), device=count.device).repeat_interleave(count)
            self._keys.append(parent * size + tok.long())

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, V) scores, -inf at tokens that lead to no item."""
        allowed_RC, real_RC = self.allowed(input_ids)
        # Column V takes the padding, then is cut off.
        column_RC = allowed_RC.masked_fill(~real_RC, scores.shape[1])
        blocked = scores.new_ones(len(scores), scores.shape[1] + 1, dtype=torch.bool)
        blocked.scatter_(1, column_RC, False)
        return scores.masked_fill(blocked[:, :-1], float("-inf"))

    def allowed(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """(R, C) tokens that may come next, and which of these entries are real.

        Raises:
            ValueError: All codes of an item are there already.
        """
        token_RS = input_ids[:, self._prompt_length :]
        rows, level = token_RS.shape
        if level >= self._trie.num_levels:
            raise ValueError(
                f"input_ids: {level} tokens after the prompt, an item has"
                f" {self._trie.num_levels}; set max_new_tokens={self._trie.num_levels}"
            )
        table = self._trie.level_token_ids[level]
        if level == 0:
            allowed_RC = table[self._trie.tok[0].long()].expand(rows, -1)
            return allowed_RC, torch.ones_like(allowed_RC, dtype=torch.bool)
        node_R, inside_R = self._walk(token_RS)
        _, code_RC, real_RC = self._trie.children(level, node_R)
        if bool(inside_R.all()):
            return table[code_RC], real_RC
        missing = len(table) - code_RC.shape[1]  # a row outside may take any of the K codes
        token_RC = torch.nn.functional.pad(table[code_RC], (0, missing))
        real_RC = torch.nn.functional.pad(real_RC, (0, missing))
        outside_R1 = ~inside_R.unsqueeze(1)
        return torch.where(outside_R1, table, token_RC), real_RC | outside_R1

    def _walk(self, token_RS: Tensor) -> tuple[Tensor, Tensor]:
        """(R,) node of each row's codes, and whether there is one."""
        node_R = torch.zeros_like(token_RS[:, 0])
        inside_R = torch.ones_like(node_R, dtype=torch.bool)
        for level, token_R in enumerate(token_RS.T):
            tokens, codes = self._sorted_tokens[level]
            at_R = torch.searchsorted(tokens, token_R.contiguous()).clamp_(max=len(tokens) - 1)
            inside_R &= tokens[at_R] == token_R
            key_R = node_R * self._trie.level_sizes[level] + codes[at_R]
            keys = self._keys[level]
            node_R = torch.searchsorted(keys, key_R).clamp_(max=len(keys) - 1)
            inside_R &= keys[node_R] == key_R
        return node_R, inside_R


def prefix_allowed_tokens_fn(
    trie: SidTrie, prompt_length: int
) -> Callable[[int, Tensor], list[int]]:
    """The callback of the same name that `generate` takes; slower than the logits processor.

    Args:
        trie: The catalogue.
        prompt_length: T, tokens before the first code, left padding included.
    """
    processor = SidTrieLogitsProcessor(trie, prompt_length)

    def allowed_tokens(batch_id: int, input_ids: Tensor) -> list[int]:
        allowed_1C, real_1C = processor.allowed(input_ids.unsqueeze(0))
        tokens: list[int] = allowed_1C[real_1C].tolist()
        return tokens

    return allowed_tokens
