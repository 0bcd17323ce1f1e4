"""SASRec: a causal transformer over the item sequence, tied to the item embeddings.

Kang and McAuley 2018 (arXiv:1808.09781), pre-norm, and two changes that make it strong: the
training stage uses a softmax over the catalogue or over many negatives instead of the binary loss
(Klenitskiy and Vasilev 2023, arXiv:2309.07602), and one learned number, the repeat bias, is added
to the score of every item that the sequence already holds. Tied embeddings make an item the best
match of itself; without the bias, on a log without repeats, seen items kept the top places.

Sequences are padded on the right; a causal mask then keeps padding out of every real position, so
no padding mask is needed. Positions count from the sequence's start.

Shape letters: B sequences, T places, D hidden size, H heads, P states, I items.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Sasrec(nn.Module):
    """Scores the next item at every place of a sequence."""

    def __init__(
        self,
        *,
        num_items: int,
        hidden: int,
        num_layers: int,
        num_heads: int,
        max_length: int,
        dropout: float,
        repeat_bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_items, self.max_length = num_items, max_length
        # The last row stands for padding; nothing ever reads its output.
        self.items = nn.Embedding(num_items + 1, hidden)
        self.positions = nn.Embedding(max_length, hidden)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(hidden, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden)
        self.repeat_bias = nn.Parameter(torch.tensor(repeat_bias))
        for embedding in (self.items, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, items_BT: Tensor) -> Tensor:
        """(B, T) item indices, padded on the right with `num_items` -> (B, T, D) states."""
        positions_T = torch.arange(items_BT.shape[1], device=items_BT.device)
        x_BTD = self.dropout(self.items(items_BT) + self.positions(positions_T))
        for block in self.blocks:
            x_BTD = block(x_BTD)
        normed: Tensor = self.norm(x_BTD)
        return normed

    @property
    def item_weights(self) -> Tensor:
        """(I, D) embeddings of the catalogue."""
        return self.items.weight[:-1]

    def score(self, states_PD: Tensor, seen_PT: Tensor) -> Tensor:
        """(P, I) logits of the whole catalogue.

        Args:
            states_PD: the state after the last event of each sequence.
            seen_PT: the sequence's items; a row may name an item several times.
        """
        logits_PI = states_PD @ self.item_weights.T
        biased_PT = logits_PI.gather(1, seen_PT) + self.repeat_bias
        return logits_PI.scatter(1, seen_PT, biased_PT)


class _Block(nn.Module):
    """Pre-norm causal self-attention and a feed-forward layer, each on a residual branch."""

    def __init__(self, hidden: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(hidden)
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.attention_out = nn.Linear(hidden, hidden)
        self.feed_norm = nn.LayerNorm(hidden)
        self.feed_in = nn.Linear(hidden, hidden)
        self.feed_out = nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.qkv, self.attention_out, self.feed_in, self.feed_out):
            nn.init.xavier_normal_(linear.weight)
            nn.init.zeros_(linear.bias)
        # Branches start at zero: small embeddings would drown in the output of a fresh layer.
        nn.init.zeros_(self.attention_out.weight)
        nn.init.zeros_(self.feed_out.weight)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        qkv = self.qkv(self.attention_norm(x_BTD)).view(B, T, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D / H)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x_BTD = x_BTD + self.dropout(self.attention_out(mixed.transpose(1, 2).reshape(B, T, D)))
        fed = self.dropout(F.gelu(self.feed_in(self.feed_norm(x_BTD))))
        out_BTD: Tensor = x_BTD + self.dropout(self.feed_out(fed))
        return out_BTD
