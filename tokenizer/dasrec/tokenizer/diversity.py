"""LETTER's diversity loss: codewords of one cluster attract each other (arXiv 2405.07314, 3.2.3).

Items crowd on few codewords where these lie unevenly. The codewords of a level are clustered with
bounds on the clusters' sizes, and each is drawn to the others of its cluster, away from the rest.

Shape letters: B batch, K codebook size, D code dimension, G groups.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dasrec.tokenizer.balanced_kmeans import balanced_kmeans
from dasrec.tokenizer.config import AutoencoderConfig
from dasrec.tokenizer.quantizer import Quantized, ResidualQuantizer


class DiverseQuantizer(ResidualQuantizer):
    """A residual quantizer with one more loss, `diversity`, the sum over levels of

        mean_B -log softmax_j( <e_c, e_j> ; j != c )[positive of c]

    c: the code of a row; positive: a random other code of c's group.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__(config)
        self.groups = [torch.zeros(size, dtype=torch.int64) for size in config.level_sizes]

    def regroup(self, groups: int, seed: int) -> None:
        """Cluster the codewords of every level anew."""
        for level, codebook_KD in enumerate(self.codebooks):
            words = codebook_KD.detach().cpu().numpy()
            _, group_K = balanced_kmeans(words, groups, seed + level)
            self.groups[level] = torch.from_numpy(group_K).to(codebook_KD.device)

    def forward(self, h_BD: Tensor, keep_B: Tensor | None = None) -> Quantized:
        """As `ResidualQuantizer.forward`, with `diversity` among the losses."""
        codes_BL, z_BD, losses = super().forward(h_BD, keep_B)
        total = h_BD.new_zeros(())
        for level, (codebook_KD, group_K) in enumerate(
            zip(self.codebooks, self.groups, strict=True)
        ):
            codes_B = codes_BL[:, level]
            positive_B = other_of_group(group_K, codes_B)
            total = total + diversity(codebook_KD, codes_B, positive_B)
        return Quantized(codes_BL, z_BD, losses | {"diversity": total})


def other_of_group(group_K: Tensor, codes_B: Tensor) -> Tensor:
    """For each code a random other one of its group, by torch's global generator.

    A code that is alone in its group is drawn itself.
    """
    order_K = torch.argsort(group_K, stable=True)
    place_K = torch.empty_like(order_K)
    place_K[order_K] = torch.arange(len(order_K), device=order_K.device)
    count_G = torch.bincount(group_K)
    group_B = group_K[codes_B]
    start_B, count_B = (count_G.cumsum(0) - count_G)[group_B], count_G[group_B]
    # A step of 1..count-1 round the group never lands on the code itself.
    step_B = 1 + (torch.rand(len(codes_B), device=codes_B.device) * (count_B - 1)).long()
    return order_K[start_B + (place_K[codes_B] - start_B + step_B) % count_B]


def diversity(codebook_KD: Tensor, codes_B: Tensor, positive_B: Tensor) -> Tensor:
    """Cross entropy of a chosen codeword's dot products with all the others.

    Rows of equal code have equal scores: they are computed once per codeword. A codeword that is
    alone in its group, and so its own positive, adds nothing.
    """
    scores_KK = codebook_KD @ codebook_KD.T
    own_KK = torch.eye(len(codebook_KD), dtype=torch.bool, device=codebook_KD.device)
    log_p_KK = F.log_softmax(scores_KK.masked_fill(own_KK, -torch.inf), 1)
    return -log_p_KK[codes_B, positive_B].masked_fill(codes_B == positive_B, 0).mean()
