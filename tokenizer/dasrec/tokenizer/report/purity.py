"""Whether like items have like codes: by embedding, by category and by who buys them together.

Shape letters: I items, L learned levels, N training interactions, M sampled items.
"""

import faiss
import numpy as np
import numpy.typing as npt
import polars as pl

from dasrec.core import Ragged
from dasrec.tokenizer.collisions import groups_of
from dasrec.tokenizer.report.sampling import affordable, evenly, unit

Codes = npt.NDArray[np.integer]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

NEIGHBOURS = 10
PREFIXES = 3  # prefixes of up to so many codes are looked at
WINDOW = 5  # positions apart, at most, of two items bought together


def prefix_groups(codes_IL: Codes) -> dict[int, Ints]:
    """Group number (I,) of every item by its first p codes, by p."""
    lengths = range(1, min(PREFIXES, codes_IL.shape[1]) + 1)
    return {length: groups_of(codes_IL[:, :length]) for length in lengths}


def neighbour_purity(prefixes: dict[int, Ints], x_ID: Floats) -> dict[str, float]:
    """`purity_p`: share of an item's 10 nearest items by cosine with the same first p codes."""
    rows_M = evenly(np.arange(len(x_ID)), affordable(len(x_ID)))
    unit_ID = unit(x_ID)
    count = min(NEIGHBOURS + 1, len(x_ID))
    near = faiss.knn(unit_ID[rows_M], unit_ID, count, metric=faiss.METRIC_INNER_PRODUCT)[1]
    other = near != rows_M[:, None]  # an item is its own neighbour, though not surely first
    # Items of one text are equally near: faiss may then leave the item itself out.
    other[other.all(1), -1] = False
    return {
        f"purity_{length}": float((prefix_I[near] == prefix_I[rows_M][:, None])[other].mean())
        for length, prefix_I in prefixes.items()
        if other.any()
    }


def category_purity(prefixes: dict[int, Ints], category_I: pl.Series) -> dict[str, float]:
    """`category_purity_p`: share of pairs of items with equal first p codes that have one category.

    `category_purity_chance`: the same among all pairs. Items without a category are left out. A
    prefix length that no two items share has no figure.
    """
    known = category_I.is_not_null().to_numpy()
    number = category_I.drop_nulls().rank("dense").to_numpy().astype(np.int64) - 1
    grouped = {f"_{length}": prefix_I[known] for length, prefix_I in prefixes.items()}
    figures = {}
    for name, group in (grouped | {"_chance": np.zeros_like(number)}).items():
        if (all_pairs := _pairs(group)) > 0:
            both = _pairs(groups_of(np.column_stack([group, number])))
            figures[f"category_purity{name}"] = both / all_pairs
    return figures


def copurchase(prefixes: dict[int, Ints], sequences: Ragged, num_items: int) -> dict[str, float]:
    """`copurchase_p`: share of pairs bought together that have the same first p codes.

    A pair is two interactions of one user with different items, at most 5 positions apart.
    `copurchase_chance_p`: the share if both ends were drawn independently, as often as the items
    are ends of such pairs, given that they are different items.
    """
    user_N = np.repeat(np.arange(len(sequences.starts) - 1), np.diff(sequences.starts))
    ends_I = np.zeros(num_items)
    same = dict.fromkeys(prefixes, 0)
    for apart in range(1, WINDOW + 1):
        first, second = sequences.values[:-apart], sequences.values[apart:]
        keep = (user_N[:-apart] == user_N[apart:]) & (first != second)
        first, second = first[keep], second[keep]
        ends_I += np.bincount(first, minlength=num_items)
        ends_I += np.bincount(second, minlength=num_items)
        for length, prefix_I in prefixes.items():
            same[length] += int((prefix_I[first] == prefix_I[second]).sum())
    pairs = ends_I.sum() / 2
    if not pairs:
        return {}
    itself = (ends_I**2).sum()
    figures = {f"copurchase_{length}": count / pairs for length, count in same.items()}
    for length, prefix_I in prefixes.items():
        together = (np.bincount(prefix_I, ends_I) ** 2).sum()
        chance = (together - itself) / (ends_I.sum() ** 2 - itself)
        figures[f"copurchase_chance_{length}"] = float(chance)
    return {name: float(value) for name, value in figures.items()}


def _pairs(group: Ints) -> float:
    """Ordered pairs of distinct rows of one group."""
    size = np.bincount(group).astype(np.float64)
    return float((size * (size - 1)).sum())
