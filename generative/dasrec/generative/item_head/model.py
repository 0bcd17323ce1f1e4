"""The item head.

Shape letters: B states, I items, H hidden width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INIT_STD = 0.02


class ItemHead(nn.Module):
    r"""Logits of whole items from the generator's states.

        logit(i | h) = (h + A h + a) . (M e_i + r_i)

    `e_i` is the sum of the frozen token embeddings of the item's codewords, so that items share
    what their SIDs share; `r_i` is the item's own. An item without training interactions has
    r_i = 0: it is scored by its codewords alone. (Yang et al. 2024, arXiv 2411.18814, order a beam,
    and cold items added to it, by dense vectors; theirs come from the text.)
    """

    codewords_IH: Tensor

    def __init__(self, codewords_IH: Tensor, dropout: float = 0.0) -> None:
        """Start at scores near zero, with no vector of an item's own.

        Args:
            codewords_IH: e; not saved with the weights, for the generator has it.
            dropout: on the states, in training.
        """
        super().__init__()
        num_items, width = codewords_IH.shape
        self.dropout = dropout
        self.register_buffer("codewords_IH", codewords_IH, persistent=False)
        self.query = nn.Linear(width, width)
        self.project = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.project.weight, std=INIT_STD)
        self.own_IH = nn.Parameter(torch.zeros(num_items, width))

    def forward(self, states_BH: Tensor) -> Tensor:
        """(B, H) what the items' vectors are multiplied with."""
        states_BH = F.dropout(states_BH, self.dropout, self.training)
        query_BH: Tensor = states_BH + self.query(states_BH)
        return query_BH

    def vectors(self, items: Tensor | None = None) -> Tensor:
        """(I, H) vectors of all items, or of some."""
        chosen = slice(None) if items is None else items
        vectors: Tensor = self.own_IH[chosen] + self.project(self.codewords_IH[chosen])
        return vectors


def codewords(model: nn.Module, item_tokens_IL: Tensor) -> Tensor:
    """(I, H) summed token embeddings of every item's SID, float32, on the CPU.

    Args:
        model: a causal LM; its embedding module is called, so that adapted token rows count.
        item_tokens_IL: token ids of the items.
    """
    embedding: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    device = next(embedding.parameters()).device
    with torch.no_grad():
        levels = [embedding(tokens.to(device)).float().cpu() for tokens in item_tokens_IL.T]
    return torch.stack(levels).sum(0)
