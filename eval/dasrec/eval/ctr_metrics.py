"""CTR metrics: AUC, GAUC, UAUC, LogLoss, NE and calibration. NumPy only, no loop over users.

Every metric takes sample weights; a row of weight 2 counts like two equal rows.

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
    weights: Floats
    """(G,) sum of the sample weights of each; `rows` where there are none."""
    num_dropped: int
    """Users with one label only: no AUC exists for them."""
    row_coverage: float
    """Share of all impressions that belong to the users kept."""

    @property
    def gauc(self) -> float:
        """Impression-weighted mean, sum_u n_u AUC_u / sum_u n_u (Zhu et al. 2017); or NaN."""
        return (
            float(np.average(self.aucs, weights=self.weights)) if len(self.aucs) else float("nan")
        )

    @property
    def uauc(self) -> float:
        """Plain mean of the users' AUCs; or NaN."""
        return float(self.aucs.mean()) if len(self.aucs) else float("nan")


def user_aucs(
    users: npt.ArrayLike,
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
) -> UserAucs:
    """AUC within every user, by one sort of all rows by (user, score).

    AUC_u = sum_{i positive, j negative} w_i w_j ([s_i > s_j] + [s_i = s_j] / 2) / (W_+ W_-), i.e.
    Mann and Whitney's (1947) statistic; W_+ and W_- are the weights of the user's positives and
    negatives.

    Args:
        users: (M,) group of each row, integers.
        labels: (M,) 0 or 1.
        scores: (M,) any monotone score.
        weights: (M,) sample weights > 0; 1 without them.

    Raises:
        ValueError: unequal lengths, labels other than 0 and 1, NaN scores, weights <= 0.
    """
    label, score, weight = _checked(labels, scores, weights)
    group = np.asarray(users, np.int64)
    if group.shape != label.shape:
        raise ValueError(
            f"user_aucs: one user per label is needed, got {len(group)} and {len(label)}"
        )
    if not len(label):
        return UserAucs(group, label, group, weight, 0, 0.0)
    order = np.lexsort((score, group))
    group, label, score, weight = group[order], label[order], score[order], weight[order]
    new_group = np.concatenate([[True], group[1:] != group[:-1]])
    new_tie = new_group | np.concatenate([[True], score[1:] != score[:-1]])
    first, tie_first = np.flatnonzero(new_group), np.flatnonzero(new_tie)
    rows = np.diff(np.append(first, len(group)))
    positive = np.add.reduceat(weight * label, first)  # (G,)
    total = np.add.reduceat(weight, first)
    # Negatives at or below a score count in full below it and by half at it.
    negative_T = np.add.reduceat(weight * (1 - label), tie_first)
    before_T = np.cumsum(negative_T) - negative_T
    tie_of_group = np.searchsorted(tie_first, first)
    before_T = before_T - np.repeat(
        before_T[tie_of_group], np.diff(np.append(tie_of_group, len(tie_first)))
    )
    positive_T = np.add.reduceat(weight * label, tie_first)
    won = np.add.reduceat(positive_T * (before_T + negative_T / 2), tie_of_group)
    positives = np.add.reduceat(label, first)
    kept = (positives > 0) & (positives < rows)
    aucs = won[kept] / (positive[kept] * (total - positive)[kept])
    n = rows[kept]
    return UserAucs(
        group[first][kept],
        aucs,
        n,
        total[kept],
        int((~kept).sum()),
        float(n.sum() / len(label)),
    )


def auc(
    labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """Area under the ROC curve over all rows; NaN when one label only is present."""
    return user_aucs(np.zeros(len(np.asarray(labels)), np.int64), labels, scores, weights).gauc


def gauc(
    users: npt.ArrayLike,
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
) -> float:
    """Impression-weighted mean of the users' AUCs (see `user_aucs`)."""
    return user_aucs(users, labels, scores, weights).gauc


def uauc(
    users: npt.ArrayLike,
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
) -> float:
    """Plain mean of the users' AUCs (see `user_aucs`)."""
    return user_aucs(users, labels, scores, weights).uauc


def row_losses(labels: npt.ArrayLike, logits: npt.ArrayLike) -> Floats:
    """(M,) binary cross-entropy of each row in nats, from logits: softplus(z) - y z."""
    label, logit, _ = _checked(labels, logits)
    return np.asarray(np.logaddexp(0, logit) - label * logit)


def logloss(
    labels: npt.ArrayLike, logits: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """Mean binary cross-entropy in nats, from logits (no clipping needed)."""
    label, logit, weight = _checked(labels, logits, weights)
    return float(np.average(row_losses(label, logit), weights=weight)) if len(label) else np.nan


def normalized_entropy(
    labels: npt.ArrayLike, logits: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """LogLoss over that of predicting the rows' own click rate (He et al., 2014); lower is better.

    NaN when one label only is present.
    """
    label, logit, weight = _checked(labels, logits, weights)
    rate = float(np.average(label, weights=weight)) if len(label) else 0.0
    if not 0 < rate < 1:
        return float("nan")
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    return float(logloss(label, logit, weight) / entropy)


def pcoc(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """Predicted clicks over observed clicks, mean(p) / mean(y); 1 is calibrated, NaN without."""
    label, probability, weight = _checked(labels, probabilities, weights)
    return float(weight @ probability / (weight @ label)) if label.any() else float("nan")


def ece(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    num_bins: int = 100,
    weights: npt.ArrayLike | None = None,
) -> float:
    """Expected calibration error with bins of equal mass (Naeini et al., 2015).

    sum_b W_b / W |mean(p in b) - mean(y in b)|. Equal probabilities share a bin, so that the order
    of rows does not matter. A perfectly calibrated sample does not give 0: read it next to
    `ece_floor`.
    """
    label, probability, weight = _checked(labels, probabilities, weights)
    if not len(label):
        return float("nan")
    order = np.argsort(probability, kind="stable")
    probability, mass = probability[order], np.cumsum(weight[order])
    new_tie = np.concatenate([[True], probability[1:] != probability[:-1]])
    before = np.concatenate([[0.0], mass[:-1]])[new_tie]
    tie_bin = np.minimum(before * num_bins / mass[-1], num_bins - 1).astype(np.int64)
    row_bin = tie_bin[np.cumsum(new_tie) - 1]
    gap = np.bincount(row_bin, weight[order] * (probability - label[order]))
    return float(np.abs(gap).sum() / mass[-1])


def ece_floor(
    probabilities: npt.ArrayLike,
    num_bins: int = 100,
    weights: npt.ArrayLike | None = None,
    *,
    seed: int = 0,
) -> float:
    """ECE of labels drawn from the probabilities themselves: the noise of `ece` at this size."""
    probability = np.asarray(probabilities, np.float64)
    # Drawn in the order of the probabilities: the floor must not depend on the order of rows.
    drawn = np.empty(len(probability), np.bool_)
    order = np.argsort(probability, kind="stable")
    drawn[order] = generator(seed, "ece_floor").random(len(probability)) < probability[order]
    return ece(drawn, probability, num_bins, weights)


def ctr_report(
    users: npt.ArrayLike,
    labels: npt.ArrayLike,
    logits: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
) -> dict[str, Any]:
    """Every CTR metric of one slice.

    Args:
        users: (M,) group of each row.
        labels: (M,) 0 or 1.
        logits: (M,) model outputs before the sigmoid, calibrated ones where there are any: all
            but the AUCs depend on them.
        weights: (M,) sample weights > 0; 1 without them.
    """
    label, logit, weight = _checked(labels, logits, weights)
    probability = 0.5 * (1 + np.tanh(logit / 2))  # sigmoid without overflow
    groups = user_aucs(users, label, logit, weight)
    return {
        "auc": auc(label, logit, weight),
        "gauc": groups.gauc,
        "uauc": groups.uauc,
        "logloss": logloss(label, logit, weight),
        "ne": normalized_entropy(label, logit, weight),
        "ece": ece(label, probability, weights=weight),
        "ece_floor": ece_floor(probability, weights=weight),
        "pcoc": pcoc(label, probability, weight),
        "num_rows": len(label),
        "num_users": len(groups.users),
        "num_users_dropped": groups.num_dropped,
        "row_coverage": groups.row_coverage,
    }


def _checked(
    labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> tuple[Floats, Floats, Floats]:
    label, score = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    weight = np.ones(label.shape) if weights is None else np.asarray(weights, np.float64)
    if label.ndim != 1 or not label.shape == score.shape == weight.shape:
        raise ValueError(
            f"ctr_metrics: labels, scores and weights must be 1-d and equally long, "
            f"got {label.shape}, {score.shape} and {weight.shape}"
        )
    if not np.isin(label, (0, 1)).all():
        raise ValueError("ctr_metrics: labels must be 0 or 1; binarise them first")
    if np.isnan(score).any():
        raise ValueError("ctr_metrics: scores hold NaN; the model diverged")
    if not (weight > 0).all():
        raise ValueError("ctr_metrics: weights must be > 0; leave rows of weight 0 out")
    return label, score, weight
