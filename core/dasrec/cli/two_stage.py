"""What re-ranking adds to the generator's lists, query by query."""

from pathlib import Path
from typing import Any

from rich.table import Table

from dasrec.core.artifacts import load_manifest
from dasrec.eval.significance import compare_reports
from dasrec.eval.tables import number, rich_table

METRICS = ("recall@10", "ndcg@10")


def two_stage_figures(run_dir: Path, tokenizer: str) -> dict[str, Any]:
    """Generator alone against generator and ranker on the test queries, by item.

    Args:
        run_dir: the run directory.
        tokenizer: whose lists were re-ranked.

    Returns:
        The weight that validation chose, and per metric the means, the paired difference with its
        95% interval over users, and the p-value; empty where nothing was re-ranked and evaluated.
    """
    alone, ranked = (run_dir / "reports" / name for name in (tokenizer, f"{tokenizer}_ranked"))
    if not (alone.exists() and ranked.exists()):
        return {}
    lists = load_manifest(run_dir / "recommendations" / f"{tokenizer}_ranked", "recommendations")
    found: dict[str, Any] = {"generator_weight": lists.metrics["generator_weight"]}
    for metric in METRICS:
        tested = compare_reports(alone, ranked, metric)._asdict()
        found[metric] = {
            "generator": tested.pop("mean_a"),
            "ranked": tested.pop("mean_b"),
            **tested,
        }
    return found


def two_stage_table(figures: dict[str, Any]) -> Table:
    """The figures for the terminal."""
    rows = [
        [
            metric,
            *(number(values[name]) for name in ("generator", "ranked")),
            *(f"{values[name]:+.4f}" for name in ("difference", "low", "high")),
            f"{values['p_value']:.2g}",
            str(values["num_users"]),
        ]
        for metric, values in figures.items()
        if metric in METRICS
    ]
    header = ["metric", "generator", "with ranker", "difference", "low", "high", "p", "users"]
    weight = figures["generator_weight"]
    title = f"Two stages, test; logit + {weight:g} x generator score (weight chosen on valid)"
    return rich_table(header, rows, title)
