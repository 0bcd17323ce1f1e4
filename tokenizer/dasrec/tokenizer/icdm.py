"""ICDM: an ID-based CF model that splits true preference from popularity (das-method 1.2, 4.3).

Lineage: CD2AN (SIGIR'22) for items, mirrored to users. Shape letters: B rows or clicks, U users and
I items of a batch, S statistics, D factor dimension.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dasrec.core import StageConfig
from dasrec.tokenizer.alignment import NEVER, cosine_scores, pair_nce
from dasrec.tokenizer.autoencoder import mlp
from dasrec.tokenizer.clicks import Clicks
from dasrec.tokenizer.config import Positive, Size, Weight
from dasrec.tokenizer.quantizer import squared_distances
from dasrec.tokenizer.statistics import PopularityStatistics


class IcdmConfig(StageConfig):
    """ID-based CF debias model (ICDM): gives the alignment its collaborative targets."""

    variant: Literal["cd2an", "dice", "none"] = "cd2an"
    """`cd2an` splits true from bias factors and aligns to the true ones; `dice` splits them by
    cause (Zheng et al., WWW'21); `none` is the paper's "w/o debias": one CF loss that carries
    popularity, alignment to the undivided vectors."""
    embedding_dim: Size = 64
    """Width of the ID embeddings (one per factor) and of the layer above them."""
    learning_rate: Positive = 1e-2
    """AdamW step of the ID embeddings, whose rows are seen seldom; the rest has the common one."""
    tau: Positive = 0.1
    """Temperature of the CF losses (cosine scores)."""
    logq_bias: bool = True
    """logQ correction of the bias branch's softmax: keeps popularity in its scores."""
    logq_unbias: bool = False
    """The same for the unbias branch; off, popularity is divided out of its scores."""
    sim: Weight = 0.1
    """cd2an: weight of L_sim, which ties the bias factors to popularity and conformity."""
    orth: Weight = 0.1
    """cd2an: weight of L_orth, which separates true from bias factors."""
    reg: Weight = 0.1
    """cd2an: weight of L_reg, which anchors the reference encoders to popularity statistics."""
    cause: Weight = 0.1
    """dice: weight of the interest and of the conformity loss."""
    discrepancy: Weight = 0.01
    """dice: weight of the distance correlation between the factors."""


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


class Factor(nn.Module):
    """One factor: an ID embedding of its own, a layer and a head.

    Two factors with a common embedding keep each other's contents: on synthetic data popularity
    could be read from the true factors as well as from the bias factors (benchmarks/debias.py).
    """

    def __init__(self, rows: int, embedding_dim: int, factor_dim: int) -> None:
        super().__init__()
        self.ids = nn.Embedding(rows, embedding_dim)
        nn.init.normal_(self.ids.weight, std=0.1)
        self.head = mlp(embedding_dim, embedding_dim, factor_dim)

    def forward(self, ids_B: Tensor) -> Tensor:
        """(B, D)."""
        vectors_BD: Tensor = self.head(self.ids(ids_B))
        return vectors_BD


class Tower(nn.Module):
    """One side: true and bias factor, their fusion, the reference encoder."""

    statistics_NS: Tensor

    def __init__(
        self, statistics_NS: Tensor, embedding_dim: int, factor_dim: int, *, split: bool
    ) -> None:
        """Build a side.

        Args:
            statistics_NS: popularity statistics, one row per user or item.
            embedding_dim: width of each ID embedding.
            factor_dim: D.
            split: the true factor learns from its own loss alone: the fusion, which the bias loss
                trains, sees it without gradient.
        """
        super().__init__()
        self.register_buffer("statistics_NS", statistics_NS)
        rows = len(statistics_NS)
        self.true = Factor(rows, embedding_dim, factor_dim)
        self.bias = Factor(rows, embedding_dim, factor_dim)
        self.fusion = mlp(2 * factor_dim, 2 * factor_dim, factor_dim)
        self.reference = mlp(statistics_NS.shape[1], factor_dim, factor_dim)
        self.anchor = nn.Linear(factor_dim, 1)
        self.split = split

    def forward(self, ids_B: Tensor) -> Factors:
        """The factors of users or items."""
        true_BD, bias_BD = self.true(ids_B), self.bias(ids_B)
        fused_of = true_BD.detach() if self.split else true_BD
        statistics_BS = self.statistics_NS[ids_B]
        reference_BD = self.reference(statistics_BS)
        return Factors(
            true_BD,
            bias_BD,
            self.fusion(torch.cat([fused_of, bias_BD], 1)),
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
        split = config.variant == "cd2an"
        self.users = Tower(torch.from_numpy(statistics.users_US), dim, factor_dim, split=split)
        self.items = Tower(torch.from_numpy(statistics.items_IS), dim, factor_dim, split=split)
        self.register_buffer("log_q_I", torch.from_numpy(statistics.log_q_I))

    def target(self, factors: Factors) -> Tensor:
        """The vectors that the alignment ties z to: the true factors, if they are split off."""
        return factors.fused_BD if self.config.variant == "none" else factors.true_BD

    def losses(self, user: Factors, item: Factors, clicks: Clicks) -> dict[str, Tensor]:
        """L_CF's terms, weighted, by name.

            bias   = CE( cos(c_u, c_j) / tau - log q_j )      keeps popularity
            unbias = CE( cos(c_u^int, c_j^pro) / tau )        optimum is PMI: popularity divided out
            sim    = 2 - cos(c_i^pop, sg[c_i^p]) - cos(c_u^con, sg[c_u^c])
            orth   = cos(c_u^int, c_u^con)^2 + cos(c_i^pro, c_i^pop)^2
            reg    = squared error of the references' estimates of popularity and conformity

        In-batch negatives are drawn with probability q (popularity), hence the logQ correction
        (Yi et al., RecSys'19) decides whether popularity stays in the scores.

        Args:
            user: factors of the batch's distinct users.
            item: factors of its distinct items.
            clicks: the click pairs among them.
        """
        config = self.config
        if config.variant == "dice":
            return dice(config, user, item, clicks, self.log_q_I)
        losses = {"bias": self._click_loss(user.fused_BD, item.fused_BD, clicks, config.logq_bias)}
        if config.variant == "none":
            return losses
        losses["unbias"] = self._click_loss(user.true_BD, item.true_BD, clicks, config.logq_unbias)
        return losses | {
            "sim": config.sim * (similarity(user) + similarity(item)),
            "orth": config.orth * (orthogonality(user) + orthogonality(item)),
            "reg": config.reg * (anchoring(user) + anchoring(item)),
        }

    def _click_loss(self, user_UD: Tensor, item_ID: Tensor, clicks: Clicks, logq: bool) -> Tensor:
        scores_UI = cosine_scores(user_UD, item_ID, 1 / self.config.tau)
        return click_softmax(scores_UI, clicks, self.log_q_I if logq else None)


def click_softmax(scores_UI: Tensor, clicks: Clicks, log_q_I: Tensor | None) -> Tensor:
    """Softmax loss of the clicks against the batch's other items, logQ-corrected if `log_q_I`."""
    if log_q_I is not None:
        scores_UI = scores_UI - log_q_I[clicks.items]
    return pair_nce(scores_UI, clicks.negatives_UI, clicks.click_users_B, clicks.click_items_B)


def dice(
    config: IcdmConfig, user: Factors, item: Factors, clicks: Clicks, log_q_I: Tensor
) -> dict[str, Tensor]:
    """DICE's terms (WWW'21; das-method 4.3b), weighted, by name.

        click      = CE( s^int + s^con - log q ),   s^int = cos(c_u^int, c_i^pro) / tau, s^con alike
        interest   = mean over O1 of -log sigma( s^int_pos - s^int_neg )
        conformity = mean over O1 of -log sigma( s^con_neg - s^con_pos )
                     + mean over O2 of -log sigma( s^con_pos - s^con_neg )
        disc       = dCor(c^int, c^con) of users + dCor(c^pro, c^pop) of items

    One negative is drawn for each click from the clicks of other users. O1: it is more popular
    than the positive, so only interest explains the click; O2: it is not.
    """
    interest_UI = cosine_scores(user.true_BD, item.true_BD, 1 / config.tau)
    crowd_UI = cosine_scores(user.bias_BD, item.bias_BD, 1 / config.tau)
    users_B, items_B = clicks.click_users_B, clicks.click_items_B
    size = len(items_B)
    shift = torch.randint(1, max(size, 2), (), device=items_B.device)
    other_B = items_B[(torch.arange(size, device=items_B.device) + shift) % size]
    log_q = log_q_I[clicks.items]
    gap_B = log_q[other_B] - log_q[items_B]
    valid_B = clicks.negatives_UI[users_B, other_B] > NEVER
    more_B, less_B = valid_B & (gap_B > 0), valid_B & (gap_B <= 0)

    def margin(scores_UI: Tensor) -> Tensor:
        return scores_UI[users_B, items_B] - scores_UI[users_B, other_B]

    def bpr(margin_B: Tensor, rows_B: Tensor) -> Tensor:
        return -(F.logsigmoid(margin_B) * rows_B).sum() / rows_B.sum().clamp_min(1)

    crowd_B = margin(crowd_UI)
    disc = distance_correlation(user.true_BD, user.bias_BD) + distance_correlation(
        item.true_BD, item.bias_BD
    )
    return {
        "click": click_softmax(interest_UI + crowd_UI, clicks, log_q_I),
        "interest": config.cause * bpr(margin(interest_UI), more_B),
        "conformity": config.cause * (bpr(-crowd_B, more_B) + bpr(crowd_B, less_B)),
        "disc": config.discrepancy * disc,
    }


def distance_correlation(x_BD: Tensor, y_BE: Tensor) -> Tensor:
    """dCor of two samples, in [0, 1]; 0 for independent variables (Székely et al., 2007)."""

    same_BB = torch.eye(len(x_BD), dtype=torch.bool, device=x_BD.device)

    def centred(x_BD: Tensor) -> Tensor:
        squared_BB = squared_distances(x_BD, x_BD).masked_fill(same_BB, 0)
        d_BB = squared_BB.clamp_min(1e-12).sqrt()  # at 0 the root has no gradient
        return d_BB - d_BB.mean(0, keepdim=True) - d_BB.mean(1, keepdim=True) + d_BB.mean()

    a_BB, b_BB = centred(x_BD), centred(y_BE)
    covariance = (a_BB * b_BB).mean().clamp_min(0)
    spread = (a_BB.square().mean() * b_BB.square().mean()).clamp_min(1e-24).sqrt()
    return (covariance / spread + 1e-12).sqrt()


def similarity(side: Factors) -> Tensor:
    """1 - cos(bias factor, sg[reference]): the bias factor means popularity (conformity)."""
    return (1 - F.cosine_similarity(side.bias_BD, side.reference_BD.detach())).mean()


def orthogonality(side: Factors) -> Tensor:
    """cos(true factor, bias factor)^2."""
    return F.cosine_similarity(side.true_BD, side.bias_BD).square().mean()


def anchoring(side: Factors) -> Tensor:
    """Squared error of the reference's estimate of its statistic; keeps it from collapsing."""
    return (side.anchored_B - side.anchor_B).square().mean()
