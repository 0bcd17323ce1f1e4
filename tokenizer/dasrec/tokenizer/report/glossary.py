"""What the figures mean, in the order in which a reader wants them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple


class Figure(NamedTuple):
    """One figure, or one per level or prefix."""

    name: str
    label: str
    meaning: str
    better: int = 0
    """1 higher, -1 lower, 0 depends."""


class Row(NamedTuple):
    """One line of the comparison."""

    name: str
    figure: Figure
    part: str
    """Level or prefix that the line is about, in words; "" if none."""


SECTIONS: Mapping[str, tuple[Figure, ...]] = {
    "Collisions": (
        Figure(
            "collision_rate_before",
            "Collision rate, learned levels",
            "1 - distinct SIDs / rows, before the collision policy.",
            -1,
        ),
        Figure("collision_rate", "Collision rate, final", "The same after the policy.", -1),
        Figure(
            "test_targets_colliding_before",
            "Test targets in collisions, learned levels",
            "Share of test targets whose learned codes another item has too.",
            -1,
        ),
        Figure(
            "test_targets_colliding",
            "Test targets in collisions, final",
            "The same with the SIDs as given out: such a target cannot be told from another item.",
            -1,
        ),
        Figure("largest_group", "Largest group", "Rows of the most crowded learned SID.", -1),
        Figure(
            "top1pct_mass",
            "Mass of the top 1% SIDs",
            "Share of rows in the most crowded 1% of the learned SIDs.",
            -1,
        ),
        Figure(
            "gini",
            "Gini of rows per SID",
            "0: every learned SID in use has as many rows; towards 1: few SIDs have nearly all.",
            -1,
        ),
    ),
    "Code usage": (
        Figure("usage", "Codes in use", "Share of the level's codewords that any row has.", 1),
        Figure(
            "perplexity",
            "Perplexity",
            "exp of the code entropy: as many evenly used codewords would be as spread out.",
            1,
        ),
        Figure("code_gini", "Gini of code usage", "0: every codeword equally often.", -1),
    ),
    "Reconstruction": (
        Figure(
            "reconstruction_error",
            "Reconstruction error",
            "Mean squared distance of the embedding, at length 1, from what z decodes to.",
            -1,
        ),
        Figure(
            "quantization_error",
            "Quantization error",
            "Squared distance of z from what was quantized, relative to its variance.",
            -1,
        ),
    ),
    "Neighbourhoods": (
        Figure(
            "purity",
            "Embedding neighbours together",
            "Share of an item's 10 nearest items by embedding that have the same first codes.",
            1,
        ),
        Figure(
            "category_purity",
            "Category purity",
            "Share of pairs of items with the same first codes that are of one category.",
            1,
        ),
        Figure("category_purity_chance", "Category purity by chance", "The same for all pairs."),
        Figure(
            "copurchase",
            "Co-purchases together",
            "Share of training pairs of one user, at most 5 positions apart, with the same first "
            "codes. A tokenizer that was trained on such pairs has seen these.",
            1,
        ),
        Figure(
            "copurchase_chance",
            "Co-purchases by chance",
            "The same if both items were drawn independently, as often as they are in such pairs.",
        ),
    ),
    "Behaviour in z": (
        Figure(
            "popularity_r2",
            "Popularity leakage",
            "Linear R² of log training popularity from z, on held-out items.",
            -1,
        ),
        Figure(
            "alignment_recall",
            "User-item alignment",
            "Share of validation targets among the K items nearest to the user's z by cosine.",
            1,
        ),
    ),
}

_NAME = re.compile(r"(?:(?P<side>item|user)/)?(?P<base>[^@]+?)(?P<index>[_@]\d+)?")
_BY_LEVEL = ("usage", "perplexity", "code_gini")


def arrange(names: Iterable[str]) -> Iterator[tuple[str, list[Row]]]:
    """Figures by section: those of items, then of users, then those without an entry here."""
    left = dict.fromkeys(names)
    for side, title in (("item", ""), ("user", "Users: ")):
        for section, figures in SECTIONS.items():
            rows = []
            for figure in figures:
                for name in [name for name in left if _matches(name, side, figure.name)]:
                    del left[name]
                    rows.append(Row(name, figure, _index(name, figure.name)))
            if rows:
                yield (title + section.lower() if title else section), rows
    if left:
        yield "Other", [Row(name, Figure(name, name, ""), "") for name in left]


def _matches(name: str, side: str, base: str) -> bool:
    parts = _NAME.fullmatch(name)
    return parts is not None and parts["base"] == base and (parts["side"] or "item") == side


def _index(name: str, base: str) -> str:
    parts = _NAME.fullmatch(name)
    if parts is None or parts["index"] is None:
        return ""
    index = parts["index"]
    number = int(index[1:])
    if index[0] == "@":
        return f"K = {number}"
    if base in _BY_LEVEL:
        return f"level {number + 1}"
    return "first code" if number == 1 else f"first {number} codes"
