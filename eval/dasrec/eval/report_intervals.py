"""Intervals over users of a report's accuracy, to be recorded beside the means."""

import polars as pl

from dasrec.eval.report import EvalReport
from dasrec.eval.significance import bootstrap_interval, query_values

METRICS = ("recall", "ndcg")
SLICES = ("all", "tie_free", "cold_items")
"""Slices whose figures are quoted alone; `dasrec report RUN` draws the intervals of all others."""


def report_intervals(report: EvalReport, split: str) -> dict[str, tuple[float, float]]:
    """95% bootstrap intervals of recall@K and ndcg@K, by `name@K` or `name@K[slice]`.

    Users are drawn, see `dasrec.eval.significance.bootstrap_interval`. A slice without a query has
    none.

    Args:
        report: of one method.
        split: "valid" or "test".
    """
    table = report.per_query.filter(pl.col("split") == split)
    found = {}
    for part in SLICES:
        column = f"slice.{part}"
        if part != "all" and column not in table.columns:
            continue
        chosen = table if part == "all" else table.filter(pl.col(column))
        if chosen.is_empty():
            continue
        users = chosen["user_idx"].to_numpy()
        for name in (f"{metric}@{k}" for metric in METRICS for k in report.manifest.config["ks"]):
            interval = bootstrap_interval(query_values(chosen, name), users)
            found[name if part == "all" else f"{name}[{part}]"] = (interval.low, interval.high)
    return found
