"""The 2-D map of items: PCA of z, for the page's script.

Shape letters: M sampled items, D code dimension.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dasrec.core import SidTable
from dasrec.tokenizer.report.sampling import evenly
from dasrec.tokenizer.report.tree import Texts

Floats = npt.NDArray[np.float32]

POINTS = 5_000
GRID = 2_000
"""Steps of the coordinates in the page: finer than any screen."""

TITLE_LENGTH = 90
CATEGORIES = 12
"""Categories told apart by colour; the rest is one more."""


def principal_plane(z_MD: Floats) -> tuple[npt.NDArray[np.float64], float]:
    """Coordinates (M, 2) on the first two principal axes, and the share of variance there.

    The sign of an axis is such that its largest entry is positive, so that a picture does not
    flip between machines. z of width 1 has 0 as its second coordinate.
    """
    centred = np.asarray(z_MD, np.float64) - z_MD.mean(0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    plane = np.zeros((len(z_MD), 2))
    plane[:, : axes.shape[1]] = centred @ axes
    total = float(values.sum())
    return plane, float(values[::-1][:2].sum()) / total if total > 0 else 0.0


def map_data(tables: Sequence[SidTable], texts: Texts) -> dict[str, Any]:
    """What the script draws: the same sample of items for every table, JSON-able."""
    rows = evenly(np.arange(len(texts.titles)), POINTS)
    data: dict[str, Any] = {
        "titles": [title[:TITLE_LENGTH] for title in texts.titles[rows]],
        "maps": [_one_map(table, rows) for table in tables],
        "grid": GRID,
    }
    if texts.categories is not None:
        of_item = texts.categories[rows].fill_null("unknown")
        counted = of_item.value_counts(sort=False).sort(
            "count", of_item.name, descending=[True, False]
        )
        names = counted[of_item.name].head(CATEGORIES).to_list()
        number = {name: index for index, name in enumerate(names)}
        data["categories"] = names
        data["category"] = [number.get(name, len(names)) for name in of_item]
    return data


def _one_map(table: SidTable, rows: npt.NDArray[np.int64]) -> dict[str, Any]:
    plane, share = principal_plane(np.asarray(table.vectors[rows]))
    low, span = plane.min(0), float(np.ptp(plane, axis=0).max())
    grid = np.rint((plane - low) / (span if span > 0 else 1.0) * GRID).astype(int)
    return {
        "x": grid[:, 0].tolist(),
        "y": grid[:, 1].tolist(),
        "codes": table.codes[rows].tolist(),
        "share": round(share, 3),
    }
