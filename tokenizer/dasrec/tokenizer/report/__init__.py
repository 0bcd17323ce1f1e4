"""How good a set of SIDs is: its figures, and the page that compares several sets."""

from dasrec.tokenizer.report.behaviour import linear_r2
from dasrec.tokenizer.report.counts import collision_rate, gini, perplexity
from dasrec.tokenizer.report.figures import sid_report
from dasrec.tokenizer.report.markdown import compare_reports, render_report

__all__ = [
    "collision_rate",
    "compare_reports",
    "gini",
    "linear_r2",
    "perplexity",
    "render_report",
    "sid_report",
]
