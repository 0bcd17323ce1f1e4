"""Figures of the codes alone: collisions and codebook use.

Shape letters: I items (or users), L levels, K codebook size.
"""

import numpy as np
import numpy.typing as npt

from dasrec.core import SidTable
from dasrec.tokenizer.collisions import groups_of

Codes = npt.NDArray[np.integer]


def perplexity(count_K: npt.NDArray[np.integer]) -> float:
    """exp(H) of a histogram: how many codewords evenly used would be as spread out."""
    share = count_K[count_K > 0] / count_K.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def gini(count: npt.NDArray[np.integer]) -> float:
    """Gini coefficient of group sizes: 0 all equal, towards 1 all in one group."""
    ordered = np.sort(count).astype(np.float64)
    n = len(ordered)
    weighted = ((n - np.arange(n)) * ordered).sum()
    return float((n + 1) / n - 2 * weighted / (n * ordered.sum()))


def collision_rate(codes_IL: Codes) -> float:
    """1 - distinct rows / rows."""
    return 1 - (int(groups_of(codes_IL).max(initial=-1)) + 1) / max(len(codes_IL), 1)


def shares_sid(codes_IL: Codes) -> npt.NDArray[np.bool_]:
    """(I,) whether another row has the same codes."""
    group_I = groups_of(codes_IL)
    return np.asarray(np.bincount(group_I)[group_I] > 1)


def table_figures(table: SidTable, before_IL: Codes) -> dict[str, float]:
    """Collisions and codebook use of one side.

    Args:
        table: the SIDs as given out.
        before_IL: the learned codes as they were before the collision policy.
    """
    sizes = np.bincount(groups_of(before_IL))
    top = -(-len(sizes) // 100)
    figures = {
        "collision_rate_before": collision_rate(before_IL),
        "collision_rate": collision_rate(table.codes),
        "largest_group": float(sizes.max()),
        "top1pct_mass": float(np.sort(sizes)[-top:].sum() / sizes.sum()),
        "gini": gini(sizes),
    }
    for level, count_K in enumerate(code_counts(table)):
        figures[f"usage_{level}"] = float((count_K > 0).mean())
        figures[f"perplexity_{level}"] = perplexity(count_K)
        figures[f"code_gini_{level}"] = gini(count_K)
    return figures


def learned_codes(table: SidTable) -> Codes:
    """(I, L) codes without the disambiguation level."""
    return table.codes[:, : len(table.codebooks)]


def code_counts(table: SidTable) -> list[npt.NDArray[np.int64]]:
    """One (K,) histogram per learned level: rows that have each code."""
    return [
        np.bincount(code_I, minlength=size)
        for code_I, size in zip(learned_codes(table).T, table.level_sizes, strict=False)
    ]
