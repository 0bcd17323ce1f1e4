"""From logits to click probabilities that agree with how often is clicked.

A CTR model is trained on one period and used in the next, whose click rate is another one; the map
is fitted on the validation rows and keeps the order of scores (a table may tie some).
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from dasrec.core.config import StageConfig
from dasrec.eval.ctr_metrics import ece, ece_floor, logloss, pcoc

CalibrationMethod = Literal["none", "platt", "isotonic"]
LEAST = 1e-6
"""No probability is nearer to 0 or 1."""

LEAST_SLOPE = 1e-3
"""Of Platt scaling: the order of scores must survive it."""


class Calibration(StageConfig):
    """sigmoid(slope * logit + intercept), or a piecewise linear table where there is one."""

    slope: float = 1.0
    """1 / temperature."""

    intercept: float = 0.0
    """Shift of the click rate."""

    logits: tuple[float, ...] = ()
    """Knots of the table, ascending."""

    probabilities: tuple[float, ...] = ()
    """Probability at each knot, not descending; constant outside, linear between."""

    def log_odds(self, logits: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Calibrated logits, same shape, in their order; finite."""
        values = np.asarray(logits, np.float64)
        if not self.logits:
            return self.slope * values + self.intercept
        probability = np.interp(values, self.logits, self.probabilities)
        return np.log(probability) - np.log1p(-probability)

    def __call__(self, logits: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Probabilities in (0, 1), same shape."""
        probability = np.clip(expit(self.log_odds(logits)), LEAST, 1 - LEAST)
        return np.asarray(probability, np.float32)


UNCALIBRATED = Calibration()
"""The plain sigmoid."""


def fit_calibration(
    method: CalibrationMethod, labels: npt.ArrayLike, logits: npt.ArrayLike
) -> Calibration:
    """Fit on rows that the model was not trained on.

    Args:
        method: "platt" fits slope and intercept (Platt, 1999; temperature scaling has no
            intercept, so it cannot follow a changed click rate); "isotonic" fits any
            non-descending table and needs more rows (Zadrozny and Elkan, 2002).
        labels: (M,) 0 or 1, both present.
        logits: (M,) of the model.
    """
    label, logit = np.asarray(labels, np.float64), np.asarray(logits, np.float64)
    if method == "none":
        return UNCALIBRATED
    if method == "isotonic":
        # No probability of 0 or 1: the rows have not shown that much.
        least = 0.5 / len(label)
        fitted = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip")
        fitted.fit(logit, label)
        return Calibration(
            logits=tuple(fitted.X_thresholds_.tolist()),
            probabilities=tuple(fitted.y_thresholds_.tolist()),
        )
    platt = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(logit[:, None], label)
    slope = float(platt.coef_[0, 0])
    if slope >= LEAST_SLOPE:
        return Calibration(slope=slope, intercept=float(platt.intercept_[0]))
    # A model without skill: all rows get about the click rate, and keep their order.
    rate = float(np.log(label.mean() / (1 - label.mean())))
    return Calibration(slope=LEAST_SLOPE, intercept=rate - LEAST_SLOPE * float(logit.mean()))


def calibration_figures(
    calibration: Calibration, labels: npt.ArrayLike, logits: npt.ArrayLike
) -> dict[str, Any]:
    """LogLoss (nats), ECE with its noise floor, and PCOC, before and after calibration."""
    figures = {}
    for name, by in (("before", UNCALIBRATED), ("after", calibration)):
        odds = by.log_odds(logits)
        probability = expit(odds)
        figures[name] = {
            "logloss": logloss(labels, odds),
            "ece": ece(labels, probability),
            "ece_floor": ece_floor(probability),
            "pcoc": pcoc(labels, probability),
        }
    return figures
