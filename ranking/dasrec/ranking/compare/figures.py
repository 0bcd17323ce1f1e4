"""CTR metrics of every arm, seed and slice."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dasrec.core.corpus import Corpus
from dasrec.eval.ctr_metrics import ctr_report
from dasrec.ranking.compare.arms import ArmResult, load_arm
from dasrec.ranking.compare.config import Arm
from dasrec.ranking.compare.slices import AGAINST_ALL, Bools, row_slices

RANK_METRICS = ("auc", "gauc", "uauc")
CALIBRATION = ("logloss", "ne", "ece", "ece_floor", "pcoc")

Figures = dict[str, dict[str, dict[str, Any]]]
"""Arm -> slice -> metric -> {mean, sd, values}."""


class Results(NamedTuple):
    """What is finished of a comparison."""

    arms: dict[str, dict[int, ArmResult]]
    """Arm -> seed -> test rows; arms without any finished seed are left out."""
    slices: dict[int, dict[str, Bools]]
    """Seed -> slice -> (M,) mask; all arms have the same rows of a seed."""


def load_results(
    planned: Mapping[str, Arm],
    seeds: tuple[int, ...],
    corpus: Corpus,
    sids: Mapping[str, str],
    folder: Path,
) -> Results:
    """Read every arm and seed that is finished, see `load_arm`.

    Raises:
        ValueError: arms whose test rows differ; their settings of negatives do.
    """
    arms: dict[str, dict[int, ArmResult]] = {}
    slices: dict[int, dict[str, Bools]] = {}
    first: dict[int, tuple[str, ArmResult]] = {}
    for name, arm in planned.items():
        for seed in seeds:
            found = load_arm(arm, seed, corpus, sids, folder)
            if found is None:
                continue
            if seed not in first:
                first[seed] = (name, found)
                slices[seed] = row_slices(corpus, found.user_idx, found.item_idx, found.label)
            other, rows = first[seed]
            same = zip(rows[:3], found[:3], strict=True)
            if not all(np.array_equal(one, two) for one, two in same):
                raise ValueError(
                    f"rank compare: arms '{other}' and '{name}' have other test rows for seed "
                    f"{seed}; give all arms the same ranking.train.negatives"
                )
            arms.setdefault(name, {})[seed] = found
    return Results(arms, slices)


def all_figures(results: Results) -> Figures:
    """Mean, standard deviation over seeds and single values of every metric."""
    return {arm: _arm_figures(seeds, results.slices) for arm, seeds in results.arms.items()}


def _arm_figures(
    seeds: Mapping[int, ArmResult], slices: Mapping[int, Mapping[str, Bools]]
) -> dict[str, dict[str, Any]]:
    names = dict.fromkeys(name for seed in seeds for name in slices[seed])
    figures: dict[str, dict[str, Any]] = {}
    for name in names:
        reports = [
            ctr_report(rows.user_idx[mask], rows.label[mask], rows.logit[mask])
            for seed, rows in seeds.items()
            if (mask := slices[seed].get(name)) is not None
        ]
        shown = RANK_METRICS if name.endswith(AGAINST_ALL) else RANK_METRICS + CALIBRATION
        figures[name] = {metric: _summary([r[metric] for r in reports]) for metric in shown}
        for count in ("num_rows", "num_users"):
            figures[name][count] = round(float(np.mean([report[count] for report in reports])))
    return figures


def _summary(values: list[float]) -> dict[str, Any]:
    """JSON has no NaN: null where a metric has no value (one label only)."""
    if any(map(math.isnan, values)):
        return {"mean": None, "sd": None, "values": [None if math.isnan(v) else v for v in values]}
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": deviation, "values": values}
