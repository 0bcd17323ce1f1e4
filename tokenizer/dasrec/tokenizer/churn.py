"""What became of the SIDs when a tokenizer was trained again.

Shape letters: M matched rows, L levels.
"""

import numpy as np
import numpy.typing as npt

from dasrec.core import SemanticIds, SidTable
from dasrec.tokenizer.append import match_ids
from dasrec.tokenizer.collisions import groups_of


def churn(old: SemanticIds, new: SemanticIds) -> dict[str, float]:
    """Compare two sets of SIDs row by row, matched by external id. Figures per side:

    old_rows, new_rows, matched_rows: counts.
    new, retired: share of the new rows that are not among the old ones, and the other way round.
    sid_changed: share of matched rows whose SID is another one.
    code_changed_l, prefix_changed_p: the same for the code of level l and for the first p codes.
    kept_together_p: of the pairs of matched rows that shared their first p old codes, the share
        that share their first p new codes. Renaming codewords does not change this one.

    Raises:
        ValueError: tables without ids, or with different numbers of levels.
    """
    figures = _side("items", old.items, new.items)
    if old.users is not None and new.users is not None:
        figures |= _side("users", old.users, new.users)
    return figures


def _side(side: str, old: SidTable, new: SidTable) -> dict[str, float]:
    if old.ids is None or new.ids is None:
        raise ValueError(
            f"churn: a table of {side} has no ids (an earlier version of dasrec made it); assign "
            "again"
        )
    if old.num_levels != new.num_levels:
        raise ValueError(
            f"churn: {side} have {old.num_levels} levels in the old table and {new.num_levels} in "
            "the new one; compare tables with the same number of levels"
        )
    at = match_ids(old.ids, new.ids)
    before_ML, after_ML = old.codes[at[at >= 0]], new.codes[at >= 0]
    name = side.removesuffix("s")
    matched = len(before_ML)
    figures = {
        "old_rows": float(len(old.codes)),
        "new_rows": float(len(new.codes)),
        "matched_rows": float(matched),
        "new": 1 - matched / max(len(new.codes), 1),
        "retired": 1 - matched / max(len(old.codes), 1),
    }
    if matched:
        changed_ML = before_ML != after_ML
        levels = range(old.num_levels)
        figures["sid_changed"] = float(changed_ML.any(1).mean())
        figures |= {f"code_changed_{level}": float(changed_ML[:, level].mean()) for level in levels}
        for p in range(1, old.num_levels + 1):
            figures[f"prefix_changed_{p}"] = float(changed_ML[:, :p].any(1).mean())
        for p in range(1, old.num_levels + 1):
            figures |= _kept_together(p, before_ML[:, :p], after_ML[:, :p])
    return {f"{name}/{key}": value for key, value in figures.items()}


def _kept_together(
    length: int, before_ML: npt.NDArray[np.integer], after_ML: npt.NDArray[np.integer]
) -> dict[str, float]:
    """Nothing where no pair shared its prefix."""

    def pairs(codes: npt.NDArray[np.integer]) -> int:
        size = np.bincount(groups_of(codes))
        return int((size * (size - 1)).sum())

    together = pairs(before_ML)
    if not together:
        return {}
    return {f"kept_together_{length}": pairs(np.column_stack([before_ML, after_ML])) / together}
