"""ICDM: an ID-based CF model that splits true preference from popularity (das-method 1.2, 4.3).

Lineage: CD2AN (SIGIR'22) for items, mirrored to users. Shape letters: B rows, S statistics,
D factor dimension.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dasrec.tokenizer.alignment import cosine_scores, in_batch_softmax
from dasrec.tokenizer.autoencoder import mlp
from dasrec.tokenizer.config import IcdmConfig
from dasrec.tokenizer.statistics import PopularityStatistics


class Factors(NamedTuple):
    """The CF vectors of a batch of users or of items."""

    true_BD: Tensor
    """c_u^int (interest) or c_i^pro (property)."""
    bias_BD: Tensor
    """c_u^con (conformity) or c_i^pop (popularity)."""
    fused_BD: Tensor
    """c_u or c_i = MLP(true (+) bias)."""
    reference_BD: Tensor
    """c_u^c or c_i^p, computed from popularity statistics rather than from the ID."""
    anchored_B: Tensor
    """The reference's estimate of its anchor statistic."""
    anchor_B: Tensor
    """The anchor statistic."""


class Tower(nn.Module):
    """One side: ID embedding, a true and a bias head, their fusion, the reference encoder."""

    statistics_NS: Tensor

    def __init__(self, statistics_NS: Tensor, embedding_dim: int, factor_dim: int) -> None:
        super().__init__()
        self.register_buffer("statistics_NS", statistics_NS)
        self.ids = nn.Embedding(len(statistics_NS), embedding_dim)
        nn.init.normal_(self.ids.weight, std=0.1)
        self.trunk = nn.Sequential(mlp(embedding_dim, embedding_dim), nn.ReLU())
        self.true_head = nn.Linear(embedding_dim, factor_dim)
        self.bias_head = nn.Linear(embedding_dim, factor_dim)
        self.fusion = mlp(2 * factor_dim, 2 * factor_dim, factor_dim)
        self.reference = mlp(statistics_NS.shape[1], factor_dim, factor_dim)
        self.anchor = nn.Linear(factor_dim, 1)

    def forward(self, ids_B: Tensor) -> Factors:
        """The factors of users or items."""
        hidden_BE = self.trunk(self.ids(ids_B))
        true_BD, bias_BD = self.true_head(hidden_BE), self.bias_head(hidden_BE)
        statistics_BS = self.statistics_NS[ids_B]
        reference_BD = self.reference(statistics_BS)
        return Factors(
            true_BD,
            bias_BD,
            self.fusion(torch.cat([true_BD, bias_BD], 1)),
            reference_BD,
            self.anchor(reference_BD).squeeze(1),
            statistics_BS[:, 0],
        )


class Icdm(nn.Module):
    """Two towers and the losses over click pairs that train them."""

    log_q_I: Tensor

    def __init__(
        self, config: IcdmConfig, statistics: PopularityStatistics, factor_dim: int
    ) -> None:
        super().__init__()
        self.config = config
        dim = config.embedding_dim
        self.users = Tower(torch.from_numpy(statistics.users_US), dim, factor_dim)
        self.items = Tower(torch.from_numpy(statistics.items_IS), dim, factor_dim)
        self.register_buffer("log_q_I", torch.from_numpy(statistics.log_q_I))

    def target(self, factors: Factors) -> Tensor:
        """The vectors that the alignment ties z to: the true factors, if they are split off."""
        return factors.true_BD if self.config.variant == "cd2an" else factors.fused_BD

    def losses(
        self,
        user: Factors,
        item: Factors,
        click_users_B: Tensor,
        click_items_B: Tensor,
        item_ids_B: Tensor,
        clicked_BB: Tensor,
    ) -> dict[str, Tensor]:
        """L_CF's terms, weighted, by name.

            bias   = CE( cos(c_u, c_j) / tau - log q_j )      keeps popularity
            unbias = CE( cos(c_u^int, c_j^pro) / tau )        optimum is PMI: popularity divided out
            sim    = 2 - cos(c_i^pop, sg[c_i^p]) - cos(c_u^con, sg[c_u^c])
            orth   = cos(c_u^int, c_u^con)^2 + cos(c_i^pro, c_i^pop)^2
            reg    = squared error of the references' estimates of popularity and conformity

        In-batch negatives are drawn with probability q (popularity), hence the logQ correction
        (Yi et al., RecSys'19) decides whether popularity stays in the scores.

        Args:
            user: factors of distinct users.
            item: factors of distinct items.
            click_users_B: rows of `user` in the click pairs.
            click_items_B: rows of `item` in the click pairs.
            item_ids_B: item_idx of the click pairs.
            clicked_BB: [n, m] user n clicked item m; no negative.
        """
        config = self.config

        def click_scores(user_BD: Tensor, item_BD: Tensor) -> Tensor:
            scores_BB = cosine_scores(user_BD[click_users_B], item_BD[click_items_B])
            return scores_BB / config.tau

        popular_BB = click_scores(user.fused_BD, item.fused_BD) - self.log_q_I[item_ids_B]
        losses = {"bias": in_batch_softmax(popular_BB, clicked_BB)}
        if config.variant == "none":
            return losses
        unbiased_BB = click_scores(user.true_BD, item.true_BD)
        losses["unbias"] = in_batch_softmax(unbiased_BB, clicked_BB)
        return losses | {
            "sim": config.sim * (similarity(user) + similarity(item)),
            "orth": config.orth * (orthogonality(user) + orthogonality(item)),
            "reg": config.reg * (anchoring(user) + anchoring(item)),
        }


def similarity(side: Factors) -> Tensor:
    """1 - cos(bias factor, sg[reference]): the bias factor means popularity (conformity)."""
    return (1 - F.cosine_similarity(side.bias_BD, side.reference_BD.detach())).mean()


def orthogonality(side: Factors) -> Tensor:
    """cos(true factor, bias factor)^2."""
    return F.cosine_similarity(side.true_BD, side.bias_BD).square().mean()


def anchoring(side: Factors) -> Tensor:
    """Squared error of the reference's estimate of its statistic; keeps it from collapsing."""
    return (side.anchored_B - side.anchor_B).square().mean()
