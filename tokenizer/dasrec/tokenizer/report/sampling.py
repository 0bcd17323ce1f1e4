"""How much of a large catalogue the figures look at."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

QUERIES = 5_000
"""Rows that the neighbour and alignment figures are computed on, at most."""

PRODUCTS = 500_000_000
"""Inner products that one such figure may cost: with 1M items, 500 queries."""


def evenly(rows: npt.NDArray[np.integer], most: int) -> npt.NDArray[np.int64]:
    """At most `most` of `rows`, evenly spaced."""
    picked = np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(np.int64)
    return np.asarray(rows[picked], np.int64)


def affordable(num_items: int) -> int:
    """Queries against `num_items` items that a figure may make."""
    return min(QUERIES, max(PRODUCTS // max(num_items, 1), 100))


def unit(x_ND: Floats) -> Floats:
    """Rows at length 1; a row of zeros stays."""
    x_ND = np.ascontiguousarray(x_ND, np.float32)
    norm_N = np.sqrt(np.einsum("nd,nd->n", x_ND, x_ND))
    return np.asarray(x_ND / np.maximum(norm_N, 1e-12)[:, None], np.float32)
