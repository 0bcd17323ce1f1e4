"""Contrastive losses: MDAM ties codes to behaviour by six of them (das-method 1.3, 4.4).

Pure functions. All are InfoNCE with in-batch negatives and cosine scores,

    -1/B sum_n log( exp(s_nn / tau) / sum_{m = n or m a negative of n} exp(s_nm / tau) ),

computed over the *distinct* rows of a batch: a row that stands k times among the B positives counts
k times in the sum, as log k added to its score. The value is that of the (B, B) formula.

Shape letters: B pairs, N anchors, M candidates, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

NEVER = -1e4
"""Added to a score so that its exponential is 0. Not -inf: an anchor without any negative would
have no gradient but NaN."""


def cosine_scores(a_ND: Tensor, b_MD: Tensor, scale: Tensor | float) -> Tensor:
    """scale * cos(a_n, b_m) as (N, M); scale = 1 / tau."""
    return (F.normalize(a_ND) * scale) @ F.normalize(b_MD).T


def negatives(positive_B: Tensor, excluded_NM: Tensor) -> Tensor:
    """log of how often candidate m is a negative of anchor n, NEVER for never: (N, M).

    Args:
        positive_B: the candidate of each pair; every pair puts its candidate among the negatives.
        excluded_NM: m is no negative of n.
    """
    count_M = torch.bincount(positive_B, minlength=excluded_NM.shape[1])
    return count_M.log().clamp_min(NEVER)[None].masked_fill(excluded_NM, NEVER)


def pair_nce(scores_NM: Tensor, negatives_NM: Tensor, anchor_B: Tensor, pos_B: Tensor) -> Tensor:
    """InfoNCE over pairs (anchor, positive), the positive itself counted once.

    Args:
        scores_NM: s / tau.
        negatives_NM: from `negatives`; an anchor's positives must be excluded in it.
        anchor_B: row of each pair.
        pos_B: column of each pair.
    """
    rest_N = (scores_NM + negatives_NM).logsumexp(1)
    own_B = scores_NM[anchor_B, pos_B]
    return (torch.logaddexp(own_B, rest_N[anchor_B]) - own_B).mean()


def user_to_item(
    z_ND: Tensor,
    cf_other_MD: Tensor,
    negatives_NM: Tensor,
    anchor_B: Tensor,
    pos_B: Tensor,
    scale: Tensor | float,
) -> Tensor:
    """Losses 1 and 2, over click pairs (u, i): NCE(z_u, c_i), and NCE(z_i, c_u).

    Args:
        z_ND: quantized embeddings of distinct users (items).
        cf_other_MD: CF vectors of distinct items (users).
        negatives_NM: see `negatives`; excluded is every training click, not only the batch's.
        anchor_B: row of z of each click.
        pos_B: row of the CF vectors of each click.
        scale: 1 / temperature.
    """
    return pair_nce(cosine_scores(z_ND, cf_other_MD, scale), negatives_NM, anchor_B, pos_B)


def same_id(z_ND: Tensor, cf_ND: Tensor, scale: Tensor | float) -> Tensor:
    """Losses 3 (u2u) and 4 (i2i): NCE(z, c) of the same user or item, over distinct rows.

    One row per user or item: nothing to mask, and popular items weigh no more than others.
    """
    scores_NN = cosine_scores(z_ND, cf_ND, scale)
    return F.cross_entropy(scores_NN, torch.arange(len(z_ND), device=z_ND.device))


def cooccurrence(z_ND: Tensor, pairs_2B: Tensor, scale: Tensor | float) -> Tensor:
    """Losses 5 and 6: NCE(z, z') of co-occurring users (clicked one item) or items (by one user).

    Left out as negatives of a pair: its own anchor, and further copies of its partner.

    Args:
        z_ND: quantized embeddings of distinct users (items).
        pairs_2B: anchors and partners, as rows of `z_ND`; no anchor twice.
        scale: 1 / temperature.
    """
    if not pairs_2B.shape[1]:
        return z_ND.new_zeros(())
    anchor_B = pairs_2B[0]
    partner_M, pos_B = torch.unique(pairs_2B[1], return_inverse=True)
    excluded_BM = anchor_B[:, None] == partner_M
    rows_B = torch.arange(len(anchor_B), device=z_ND.device)
    excluded_BM[rows_B, pos_B] = True
    scores_BM = cosine_scores(z_ND[anchor_B], z_ND[partner_M], scale)
    return pair_nce(scores_BM, negatives(pos_B, excluded_BM), rows_B, pos_B)
