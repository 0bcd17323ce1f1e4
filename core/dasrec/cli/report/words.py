"""What names of figures, slices and quantities are called in a report."""

from typing import NamedTuple

from dasrec.cli.report.document import Difference

SIGNIFICANT = 0.05
_METRICS = {
    "recall": "Recall", "ndcg": "NDCG", "hr": "HR", "mrr": "MRR", "map": "MAP", "auc": "AUC",
    "gauc": "GAUC", "uauc": "UAUC", "logloss": "log loss", "ece": "ECE",
}  # fmt: skip
_SLICES = {
    "tie_free": "on a later day",
    "tied": "on the same day",
    "history_20_up": "20 events or more",
    "sid_level": "counted by SID",
    "first_time": "never had before",
    "repeated": "had before",
    "activity_low": "least active third",
    "activity_mid": "middle third",
    "activity_high": "most active third",
}
_QUANTITIES = {
    "loss": "Training loss",
    "total": "Total loss",
    "item/recon": "Reconstruction of items",
    "user/recon": "Reconstruction of users",
    "reward": "Mean reward",
    "kl": "KL from the start",
}


class Meaning(NamedTuple):
    """A figure of the lists."""

    label: str
    meaning: str
    better: int = 0
    """1 higher, -1 lower, 0 depends."""


FIGURES = {
    "coverage": Meaning("Coverage", "Share of the catalogue that any list shows.", 1),
    "gini": Meaning("Gini", "0: all items shown equally often; towards 1: few items take all.", -1),
    "popularity": Meaning("Popularity", "Mean training interactions of the items shown."),
    "novelty": Meaning("Novelty", "Mean self-information of the items shown, in bits.", 1),
    "popularity_gap": Meaning(
        "Popularity gap",
        "How much more popular the items shown are than those of the histories; 0: as popular.",
    ),
    "diversity": Meaning("Diversity", "Mean cosine distance of two items of a list.", 1),
    "serendipity": Meaning(
        "Serendipity", "Share of targets found that a list by popularity does not find.", 1
    ),
    "invalid_rate": Meaning("Invalid", "Share of the places that are empty or hold no item.", -1),
    "duplicate_rate": Meaning("Duplicates", "Share of the items that a list repeats.", -1),
    "target_collision_rate": Meaning(
        "Targets in collisions", "Share of the targets whose SID another item has too.", -1
    ),
    "missing_queries": Meaning("Missing queries", "Queries without a list, left out.", -1),
}


def metric_label(name: str) -> str:
    """A metric for a heading.

    >>> metric_label("ndcg@10"), metric_label("recall@10[sid_level]")
    ('NDCG@10', 'Recall@10, counted by SID')
    """
    base, _, part = name.partition("[")
    metric, at, k = base.partition("@")
    label = _METRICS.get(metric, metric) + at + k
    return f"{label}, {slice_label(part.removesuffix(']'))}" if part else label


def figure_meaning(name: str) -> Meaning:
    """What a figure of the lists means; one that is not known keeps its name."""
    base, at, k = name.partition("@")
    known = FIGURES.get(base)
    if known is None:
        return Meaning(metric_label(name), "")
    return known._replace(label=known.label + at + k)


def slice_label(name: str) -> str:
    """A slice for the side of a plot.

    >>> slice_label("cold_items"), slice_label("history_5_9"), slice_label("tied")
    ('cold items', '5 to 9 events', 'on the same day')
    """
    if name in _SLICES:
        return _SLICES[name]
    parts = name.split("_")
    if parts[0] == "history" and len(parts) == 3 and all(part.isdigit() for part in parts[1:]):
        return f"{parts[1]} to {parts[2]} events"
    if parts[0] == "time" and len(parts) == 2:
        return f"quarter {parts[1]}"
    return name.replace("_", " ")


def quantity_label(name: str) -> str:
    """A logged quantity for the top of a plot.

    >>> quantity_label("eval_ndcg@10"), quantity_label("gauc"), quantity_label("align/u2i_item")
    ('NDCG@10 on validation', 'GAUC on validation', 'align: u2i item')
    """
    if name in _QUANTITIES:
        return _QUANTITIES[name]
    if name.startswith("eval_") or name.partition("@")[0] in _METRICS:
        return f"{metric_label(name.removeprefix('eval_'))} on validation"
    return name.replace("/", ": ").replace("_", " ")


def verdict(difference: Difference) -> str:
    """Whether a difference from the reference is real.

    >>> verdict(Difference("das", -0.01, -0.02, -0.001, 0.01, 0.03))
    'worse'
    """
    if difference.p_holm >= SIGNIFICANT:
        return "no clear difference"
    return "better" if difference.difference > 0 else "worse"


def p_text(value: float | None) -> str:
    """A p-value.

    >>> p_text(0.00009999), p_text(0.032), p_text(None)
    ('< 0.001', '0.032', '-')
    """
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(4.2), duration(75), duration(7320)
    ('4 s', '1 min 15 s', '2 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def protocol_sentence(num_runs: int, differing: dict[str, tuple[str, ...]]) -> str:
    """Whether the runs of a report can be compared; "" for one run."""
    if num_runs < 2:
        return ""
    if not differing:
        return "All runs have one protocol: data, split, text and cut-offs are the same."
    return (
        f"The protocols differ in {', '.join(differing)}. Figures of different protocols do not "
        "compare; differences are tested only between methods that answered the same queries."
    )
