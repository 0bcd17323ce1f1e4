"""CTR metrics: AUC, GAUC, UAUC, LogLoss and calibration. NumPy only, no loop over users.

Shape letters: M scored impressions, G users (groups) among them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dasrec.core.seeding import generator

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class UserAucs:
    """AUC of every user whose impressions have both labels, and what was left out."""

    users: Int64s
    """(G,) the users kept, ascending."""
    aucs: Floats
    """(G,) AUC of each."""
    rows: Int64s
    """(G,) impressions of each."""
    num_dropped: int
    """Users with one label only: no AUC exists for them."""
    row_coverage: float
    """Share of all impressions that belong to the users kept."""

    @property
    def gauc(self) -> float:
        """Impression-weighted mean, sum_u n_u AUC_u / sum_u n_u (Zhu et al. 2017); or NaN."""
        return float(np.average(self.aucs, weights=self.rows)) if len(self.aucs) else float("nan")

    @property
    def uauc(self) -> float:
        """Plain mean of the users' AUCs; or NaN."""
        return float(self.aucs.mean()) if len(self.aucs) else float("nan")


def user_aucs(users: npt.ArrayLike, labels: npt.ArrayLike, scores: npt.ArrayLike) -> UserAucs:
    """AUC within every user, from average ranks: one sort by (user, score).

    AUC_u = (R_u - P_u (P_u + 1) / 2) / (P_u (n_u - P_u)), R_u the sum of the positives' ranks
    (Mann and Whitney, 1947); tied scores share their mean rank, i.e. count one half.

    Args:
        users: (M,) group of each row, integers.
        labels: (M,) 0 or 1.
        scores: (M,) any monotone score.

    Raises:
        ValueError: unequal lengths, labels other than 0 and 1, NaN scores.
    """
    label, score = _checked(labels, scores)
    group = np.asarray(users, np.int64)
    if group.shape != label.shape:
        raise ValueError(
            f"user_aucs: one user per label is needed, got {len(group)} and {len(label)}"
        )
    if not len(label):
        return UserAucs(group, label, group, 0, 0.0)
    order = np.lexsort((score, group))
    group, label, score = group[order], label[order], score[order]
    new_group = np.concatenate([[True], group[1:] != group[:-1]])
    new_tie = new_group | np.concatenate([[True], score[1:] != score[:-1]])
    first = np.flatnonzero(new_group)  # (G,) first row of each user
    rows = np.diff(np.append(first, len(group)))
    tie_first = np.flatnonzero(new_tie)
    tie_size = np.diff(np.append(tie_first, len(group)))
    mean_position = tie_first + (tie_size - 1) / 2
    rank = mean_position[np.cumsum(new_tie) - 1] - np.repeat(first, rows) + 1
    positives = np.add.reduceat(label, first)
    rank_sum = np.add.reduceat(rank * label, first)
    kept = (positives > 0) & (positives < rows)
    p, n = positives[kept], rows[kept]
    aucs = (rank_sum[kept] - p * (p + 1) / 2) / (p * (n - p))
    return UserAucs(group[first][kept], aucs, n, int((~kept).sum()), float(n.sum() / len(label)))


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Area under the ROC curve over all rows; NaN when one label only is present."""
    return user_aucs(np.zeros(len(np.asarray(labels)), np.int64), labels, scores).gauc


def gauc(users: npt.ArrayLike, labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Impression-weighted mean of the users' AUCs (see `user_aucs`)."""
    return user_aucs(users, labels, scores).gauc


def uauc(users: npt.ArrayLike, labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Plain mean of the users' AUCs (see `user_aucs`)."""
    return user_aucs(users, labels, scores).uauc


def logloss(labels: npt.ArrayLike, logits: npt.ArrayLike) -> float:
    """Mean binary cross-entropy in nats, from logits (no clipping needed): softplus(z) - y z."""
    label, logit = _checked(labels, logits)
    return float((np.logaddexp(0, logit) - label * logit).mean()) if len(label) else float("nan")


def pcoc(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Predicted clicks over observed clicks, mean(p) / mean(y); 1 is calibrated, NaN without."""
    label, probability = _checked(labels, probabilities)
    return float(probability.sum() / label.sum()) if label.any() else float("nan")


def ece(labels: npt.ArrayLike, probabilities: npt.ArrayLike, num_bins: int = 100) -> float:
    """Expected calibration error with bins of equal mass (Naeini et al., 2015).

    sum_b n_b / M |mean(p in b) - mean(y in b)|. A perfectly calibrated sample does not give 0:
    read it next to `ece_floor`.
    """
    label, probability = _checked(labels, probabilities)
    if not len(label):
        return float("nan")
    order = np.argsort(probability, kind="stable")
    first = np.unique(np.linspace(0, len(label), num_bins + 1).astype(np.int64)[:-1])
    gap = np.add.reduceat((probability - label)[order], first)
    return float(np.abs(gap).sum() / len(label))


def ece_floor(probabilities: npt.ArrayLike, num_bins: int = 100, *, seed: int = 0) -> float:
    """ECE of labels drawn from the probabilities themselves: the noise of `ece` at this size."""
    probability = np.asarray(probabilities, np.float64)
    drawn = generator(seed, "ece_floor").random(len(probability)) < probability
    return ece(drawn, probability, num_bins)


def ctr_report(
    users: npt.ArrayLike, labels: npt.ArrayLike, logits: npt.ArrayLike
) -> dict[str, Any]:
    """Every CTR metric of one slice.

    Args:
        users: (M,) group of each row.
        labels: (M,) 0 or 1.
        logits: (M,) model outputs before the sigmoid.
    """
    label, logit = _checked(labels, logits)
    probability = 0.5 * (1 + np.tanh(logit / 2))  # sigmoid without overflow
    groups = user_aucs(users, label, logit)
    return {
        "auc": auc(label, logit),
        "gauc": groups.gauc,
        "uauc": groups.uauc,
        "logloss": logloss(label, logit),
        "ece": ece(label, probability),
        "ece_floor": ece_floor(probability),
        "pcoc": pcoc(label, probability),
        "num_rows": len(label),
        "num_users": len(groups.users),
        "num_users_dropped": groups.num_dropped,
        "row_coverage": groups.row_coverage,
    }


def _checked(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Floats, Floats]:
    label, score = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    if label.ndim != 1 or label.shape != score.shape:
        raise ValueError(
            f"ctr_metrics: labels and scores must be 1-d and equally long, "
            f"got {label.shape} and {score.shape}"
        )
    if not np.isin(label, (0, 1)).all():
        raise ValueError("ctr_metrics: labels must be 0 or 1; binarise them first")
    if np.isnan(score).any():
        raise ValueError("ctr_metrics: scores hold NaN; the model diverged")
    return label, score
