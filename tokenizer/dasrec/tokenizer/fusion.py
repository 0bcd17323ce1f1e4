"""Dynamic cross-modal injection (Q-BERT4Rec, arXiv 2512.02474; das-method 5.7).

Shape letters: B batch, X width of all modalities side by side, M modalities, W width of fused
vectors, D code dimension.
"""

import math

import torch
from torch import Tensor, nn

from dasrec.tokenizer.alignment import same_id
from dasrec.tokenizer.autoencoder import mlp


class Injection(nn.Module):
    """A query reads the modalities layer by layer; gates decide how deep each item goes.

        t_m = P_m x_m;   h^0 = P_q x_1
        a_m = softmax_m(h^{l-1} . t_m / sqrt W);   u = F_l([h^{l-1}; sum_m a_m t_m])
        g = sigmoid(G_l(h^{l-1} + u));   h^l = h^{l-1} + g u

    The paper attends over the tokens of a text and the patches of an image; with one pooled vector
    for each modality, these are the tokens. Its query is learned for each item; here it is a
    function of the first modality, so that a new item has one too. A modality that an item lacks
    (zeros) is a learned constant token.
    """

    def __init__(self, widths: tuple[int, ...], width: int, layers: int) -> None:
        super().__init__()
        self.widths = widths
        self.project = nn.ModuleList(mlp(own, width) for own in widths)
        self.query = mlp(widths[0], width)
        self.inject = nn.ModuleList(mlp(2 * width, width, width) for _ in range(layers))
        self.gate = nn.ModuleList(mlp(width, width, 1) for _ in range(layers))

    def forward(self, x_BX: Tensor) -> tuple[Tensor, Tensor]:
        """The modalities' tokens t (B, M, W), and the fused vector h (B, W) of the last layer."""
        blocks = torch.split(x_BX, list(self.widths), 1)
        projected = [project(block) for project, block in zip(self.project, blocks, strict=True)]
        token_BMW = torch.stack(projected, 1)
        h_BW: Tensor = self.query(blocks[0])
        for inject, gate in zip(self.inject, self.gate, strict=True):
            score_BM = (token_BMW @ h_BW[:, :, None]).squeeze(2) / math.sqrt(h_BW.shape[1])
            context_BW = (score_BM.softmax(1)[:, None] @ token_BMW).squeeze(1)
            update_BW = inject(torch.cat([h_BW, context_BW], 1))
            h_BW = h_BW + gate(h_BW + update_BW).sigmoid() * update_BW
        return token_BMW, h_BW


class FusedEncoder(nn.Module):
    """An injection, and the encoder's MLP on what it fuses."""

    def __init__(self, injection: Injection, encoder: nn.Module) -> None:
        super().__init__()
        self.injection, self.encoder = injection, encoder

    def forward(self, x_BX: Tensor) -> Tensor:
        """(B, D)."""
        encoded: Tensor = self.encoder(self.injection(x_BX)[1])
        return encoded


def multi_view(token_BMW: Tensor, fused_BW: Tensor, present_BM: Tensor, scale: float) -> Tensor:
    """Mean over modalities of InfoNCE between token and fused vector of an item, both ways.

    Args:
        token_BMW: tokens of the modalities.
        fused_BW: fused vectors.
        present_BM: modalities that the items have; the rows that lack one are no views of it.
        scale: 1 / temperature.
    """
    losses = []
    for number, token_BW in enumerate(token_BMW.unbind(1)):
        rows = present_BM[:, number].nonzero().flatten()
        if len(rows):
            token, fused = token_BW[rows], fused_BW[rows]
            losses += [same_id(token, fused, scale), same_id(fused, token, scale)]
    return torch.stack(losses).mean() if losses else fused_BW.new_zeros(())
