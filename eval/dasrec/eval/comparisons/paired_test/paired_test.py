"""`evaluate` comparison over `dasrec.eval.significance`: two methods on the same queries.

`evaluate` copies this file into its cache and reads its imports line by line with a regular
expression: never write two modules after one `import`.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from dasrec.eval.significance import compare

DESCRIPTION = """
Paired comparison of two methods by the values of a metric on the same queries: percentile bootstrap
interval of the difference and randomisation test. Users, with all their queries, are what is drawn.
"""

INPUTS = """
Args:
    predictions1: the metric of each query by one method, e.g. per-query ndcg@10.
    predictions2: the same queries by the other.
    users: an integer user per query; every query its own user unless given.
    level: coverage of the interval, 0.95 unless given.
    num_samples: bootstrap samples and random swaps, 10000 unless given.
    seed: of both, 0 unless given.

Returns:
    mean_a, mean_b, difference (b - a), low, high, p_value (two-sided), num_users.
"""


class PairedTest(evaluate.Comparison):  # type: ignore[misc]  # evaluate has no types
    """What `evaluate.load` makes an instance of."""

    def _info(self) -> Any:
        value = datasets.Value("float64")
        return evaluate.ComparisonInfo(
            module_type="comparison",
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions1": value, "predictions2": value}),
        )

    def _compute(
        self,
        predictions1: Sequence[float],
        predictions2: Sequence[float],
        users: Sequence[int] | None = None,
        level: float = 0.95,
        num_samples: int = 10_000,
        seed: int = 0,
    ) -> dict[str, float]:
        found = compare(
            predictions1, predictions2, users, level=level, num_samples=num_samples, seed=seed
        )
        return found._asdict()
