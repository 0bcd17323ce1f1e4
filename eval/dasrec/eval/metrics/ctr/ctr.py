"""`evaluate` module over `dasrec.eval.ctr_metrics`: AUC, GAUC, UAUC, LogLoss, calibration.

`evaluate` copies this file into its cache and reads its imports line by line with a regular
expression: never write two modules after one `import`.
"""

from typing import Any

import datasets
import evaluate
import numpy.typing as npt

from dasrec.eval.ctr_metrics import auc, ctr_report, logloss

DESCRIPTION = """
Metrics of predicted click-through: auc and logloss; with `groups`, also GAUC (impression-weighted
mean of the users' AUCs), UAUC (their plain mean), ECE and its noise floor, PCOC and counts.
"""

INPUTS = """
Args:
    predictions: one logit (the number before the sigmoid) per impression.
    references: one label per impression, 0 or 1.
    groups: one integer per impression, usually the user.

Returns:
    A flat dict, e.g. {"auc": ..., "gauc": ..., "logloss": ...}.
"""


class Ctr(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """What `evaluate.load` makes an instance of."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
            format="numpy",
        )

    def _compute(
        self,
        predictions: npt.ArrayLike,
        references: npt.ArrayLike,
        groups: npt.ArrayLike | None = None,
    ) -> dict[str, Any]:
        if groups is None:
            return {
                "auc": auc(references, predictions),
                "logloss": logloss(references, predictions),
            }
        return ctr_report(groups, references, predictions)
