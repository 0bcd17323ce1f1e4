"""Which features help the CTR model: arms over seeds, with slices, intervals and tests."""

from dasrec.ranking.compare.config import Arm, ArmConfig, CompareConfig, default_arms, plan_arms
from dasrec.ranking.compare.plot import plot_comparisons
from dasrec.ranking.compare.stage import compare_report, run_arms

__all__ = [
    "Arm",
    "ArmConfig",
    "CompareConfig",
    "compare_report",
    "default_arms",
    "plan_arms",
    "plot_comparisons",
    "run_arms",
]
