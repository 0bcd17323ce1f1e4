"""MDAM: six contrastive losses tie codes to behaviour (das-method 1.3, 4.4). Pure functions.

Shape letters: B pairs, D width.
"""

import torch.nn.functional as F
from torch import Tensor


def info_nce(anchor_BD: Tensor, positive_BD: Tensor, tau: float, mask_BB: Tensor | None) -> Tensor:
    """InfoNCE with in-batch negatives, cosine scores.

        -1/B sum_n log( exp(s_nn / tau) / sum_{m = n or not mask_nm} exp(s_nm / tau) )

    Args:
        anchor_BD: a_n.
        positive_BD: b_n, the positive of a_n and a negative of the other anchors.
        tau: temperature.
        mask_BB: true where b_m is no valid negative of a_n; the diagonal is ignored.
    """
    scores_BB = cosine_scores(anchor_BD, positive_BD) / tau
    return in_batch_softmax(scores_BB, mask_BB)


def cosine_scores(a_BD: Tensor, b_BD: Tensor) -> Tensor:
    """cos(a_n, b_m) as (B, B)."""
    return F.normalize(a_BD) @ F.normalize(b_BD).T


def in_batch_softmax(scores_BB: Tensor, mask_BB: Tensor | None) -> Tensor:
    """Mean cross-entropy of the diagonal, entries in `mask_BB` (off the diagonal) left out."""
    positive_B = scores_BB.diagonal()
    if mask_BB is not None:
        mask_BB = mask_BB.clone().fill_diagonal_(False)
        scores_BB = scores_BB.masked_fill(mask_BB, -float("inf"))
    return (scores_BB.logsumexp(1) - positive_B).mean()


def user_to_item(z_BD: Tensor, cf_other_BD: Tensor, clicked_BB: Tensor, tau: float) -> Tensor:
    """Losses 1 and 2, over click pairs (u_n, i_n): NCE(z_u, c_i), and NCE(z_i, c_u).

    Args:
        z_BD: quantized embeddings of the pairs' users (items).
        cf_other_BD: CF vectors of the pairs' items (users).
        clicked_BB: [n, m] true where the n-th user (item) and the m-th item (user) are a training
            click, hence no negatives of each other. Covers repeats of either in the batch.
        tau: temperature.
    """
    return info_nce(z_BD, cf_other_BD, tau, clicked_BB)


def same_id(z_BD: Tensor, cf_BD: Tensor, tau: float) -> Tensor:
    """Losses 3 (u2u) and 4 (i2i): NCE(z, c) of the same user or item, over distinct rows.

    One row per user or item: nothing to mask, and popular items weigh no more than others.
    """
    return info_nce(z_BD, cf_BD, tau, None)


def cooccurrence(z_BD: Tensor, pairs_2P: Tensor, tau: float) -> Tensor:
    """Losses 5 and 6: NCE(z, z') of co-occurring users (clicked one item) or items (by one user).

    Left out as negatives of a pair: its own anchor, and further copies of its partner.

    Args:
        z_BD: quantized embeddings of distinct users (items).
        pairs_2P: anchors and partners, as rows of `z_BD`.
        tau: temperature.
    """
    anchor_P, partner_P = pairs_2P
    if not len(anchor_P):
        return z_BD.new_zeros(())
    mask_PP = (partner_P == partner_P[:, None]) | (partner_P == anchor_P[:, None])
    return info_nce(z_BD[anchor_P], z_BD[partner_P], tau, mask_PP)
