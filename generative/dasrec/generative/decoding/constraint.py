"""Which tokens may come next in the middle of a SID: the catalogue as a mask on logits.

What adapters for other decoders share (see `processors` and `engines`). Stateless: the node is
found from the tokens each time, so a decoder may reorder, drop and repeat its rows.

Shape letters: R rows, S codes generated so far, V vocabulary, K codes of a level, U different
nodes, C children or tokens (of all rows, one after another).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dasrec.generative.decoding.allowed import Allowed
from dasrec.generative.decoding.filters import ItemFilter
from dasrec.generative.decoding.index import SidIndex


class NextTokens(NamedTuple):
    """Tokens that may come next, row after row."""

    row_C: Tensor
    """(C,) the row"""
    token_C: Tensor
    """(C,) vocabulary id"""
    ended_R: Tensor
    """(R,) bool: the row's SID is shorter than L and complete; only `after_end` may follow"""


class SidConstraint:
    """Maps the codes generated so far to the tokens that may follow."""

    def __init__(
        self, trie: SidIndex, after_end: int | None = None, allowed: Allowed | None = None
    ) -> None:
        """Prepare the look-up of codes.

        Args:
            trie: The catalogue.
            after_end: The token that fills up SIDs shorter than L; needed if there are any.
            allowed: The items that may come; None for all that are not retired.

        Raises:
            ValueError: SIDs of different length, and no `after_end`; or no item that may come.
        """
        if any(trie.level_padded) and after_end is None:
            raise ValueError(
                "after_end: the catalogue has SIDs of different length; give the token that follows"
                " a short one (e.g. the model's end or padding token)"
            )
        self.trie = trie
        self._after_end = after_end
        self._filter = ItemFilter(trie, 1, allowed)
        root = torch.zeros(1, dtype=torch.int64, device=trie.device)
        if not self._filter.alive(0, trie.children(0, root).node_C, root).any():
            raise ValueError("allowed: no item is left; allow or enable some of the catalogue's")
        self._sorted_tokens = [tokens.sort() for tokens in trie.level_token_ids]

    def mask(self, logits_RV: Tensor, token_RS: Tensor) -> Tensor:
        """(R, V) the logits, -inf at tokens that lead to no item.

        Raises:
            ValueError: All codes of an item are there already.
        """
        allowed = self.allowed(token_RS)
        blocked_RV = torch.ones_like(logits_RV, dtype=torch.bool)
        blocked_RV[allowed.row_C, allowed.token_C] = False
        masked_RV = logits_RV.masked_fill(blocked_RV, float("-inf"))
        if any(self.trie.level_padded):
            # What fills up costs nothing, in decoders that add up log-probabilities.
            masked_RV[allowed.ended_R, self._after_end] = 0.0
        return masked_RV

    def allowed(self, token_RS: Tensor) -> NextTokens:
        """Tokens that may come next.

        A row that is in no SID (some decoders keep such beams, at -inf) may take any of its
        level's codes.

        Raises:
            ValueError: All codes of an item are there already.
        """
        level = token_RS.shape[1]
        if level >= self.trie.num_levels:
            raise ValueError(
                f"input_ids: {level} tokens after the prompt, an item has"
                f" {self.trie.num_levels}; set max_new_tokens={self.trie.num_levels}"
            )
        node_R, inside_R = self._walk(token_RS)
        inside = inside_R.nonzero().squeeze(1)
        children = self.trie.children(level, node_R[inside])
        table_K = self.trie.level_token_ids[level]
        row_C, code_C = inside[children.row_C], children.code_C
        if not self._filter.is_trivial:
            alive_C = self._filter.alive(level, children.node_C, torch.zeros_like(row_C))
            row_C, code_C = row_C[alive_C], code_C[alive_C]
        ended_C = code_C == len(table_K)
        token_C = table_K[code_C.clamp(max=len(table_K) - 1)]
        if self._after_end is not None:
            token_C = token_C.masked_fill(ended_C, self._after_end)
        ended_R = torch.zeros_like(inside_R)
        ended_R[row_C[ended_C]] = True
        outside = (~inside_R).nonzero().squeeze(1)
        return NextTokens(
            torch.cat([row_C, outside.repeat_interleave(len(table_K))]),
            torch.cat([token_C, table_K.repeat(len(outside))]),
            ended_R,
        )

    def _walk(self, token_RS: Tensor) -> tuple[Tensor, Tensor]:
        """(R,) node of each row's codes, and whether there is one."""
        node_R = token_RS.new_zeros(len(token_RS), dtype=torch.int64)
        inside_R = torch.ones_like(node_R, dtype=torch.bool)
        for level, token_R in enumerate(token_RS.T):
            parent_U, parent_R = torch.unique(node_R, return_inverse=True)
            children = self.trie.children(level, parent_U)
            size = self.trie.level_sizes[level] + 1  # one more code: padding of a short SID
            key_C, order_C = (children.row_C * size + children.code_C).sort()
            code_R, found_R = self._codes(level, token_R)
            if self.trie.level_padded[level]:
                ended_U = torch.zeros_like(parent_U).index_add(
                    0, children.row_C, (children.code_C == size - 1).long()
                )
                fill_R = (ended_U[parent_R] > 0) & (token_R == self._after_end)
                code_R, found_R = code_R.masked_fill(fill_R, size - 1), found_R | fill_R
            key_R = parent_R * size + code_R
            at_R = torch.searchsorted(key_C, key_R).clamp_(max=len(key_C) - 1)
            inside_R = inside_R & found_R & (key_C[at_R] == key_R)
            node_R = children.node_C[order_C[at_R]]
        return node_R, inside_R

    def _codes(self, level: int, token_R: Tensor) -> tuple[Tensor, Tensor]:
        """(R,) codes of tokens, and whether they are codes of the level at all."""
        token_K, code_K = self._sorted_tokens[level]
        at_R = torch.searchsorted(token_K, token_R.contiguous()).clamp_(max=len(token_K) - 1)
        return code_K[at_R], token_K[at_R] == token_R
