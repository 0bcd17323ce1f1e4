r"""EASE: a linear item-item model in closed form (Steck 2019, arXiv:1905.03375, eq. 8).

    P = (X^T X + lambda 1)^-1        B_ij = -P_ij / P_jj, B_jj = 0        scores = x B

X holds the training log as 0 and 1, x the history of a query. Every seen item counts alike, in
whatever order and however long ago.

Shape letters: B queries of a block, I items, K items with training interactions.
"""

import time
from pathlib import Path

import numpy as np
from pydantic import Field
from scipy import sparse
from scipy.linalg import lapack

from dasrec.baselines.interactions import history_matrix, train_matrix
from dasrec.core import Corpus, Manifest, check_free
from dasrec.core.catalogue_lists import Floats, ListsConfig, write_lists
from dasrec.core.corpus import Int64s

MAX_ITEMS = 40_000
"""Items with training interactions at most: their square in float32 takes 6.4 GB."""

BLOCK = 1024
"""Rows mirrored at a time; never changes a result."""


class EaseConfig(ListsConfig):
    """The linear item-item model."""

    regularization: float = Field(60.0, gt=0)
    """lambda, added to the diagonal of the item-item counts."""


def recommend_ease(
    config: EaseConfig, corpus: Corpus, out: Path, *, seed: int = 0, replace: bool = False
) -> Manifest:
    """Solve for the item-item weights and rank the catalogue for validation and test queries.

    Args:
        config: regularisation and lists.
        corpus: the weights come from its training interactions; the history of a query is all
            that the user had before.
        out: directory of the Recommendations artifact.
        seed: kept in the manifest; nothing here is random.
        replace: swap an artifact that is already at `out`.

    Raises:
        ValueError: more items than a dense matrix can hold.
    """
    check_free(Path(out), replace)
    began = time.perf_counter()
    known = np.flatnonzero(corpus.train_item_count)
    if len(known) > MAX_ITEMS:
        raise ValueError(
            f"baselines.ease: the dense item-item matrix serves up to {MAX_ITEMS} items, got "
            f"{len(known)} with training interactions; leave ease out, ials and item_knn are sparse"
        )
    weights_KK = ease_weights(train_matrix(corpus)[:, known], config.regularization)

    def score(queries: Int64s) -> Floats:
        scores_BI = np.zeros((len(queries), corpus.num_items), np.float32)
        scores_BI[:, known] = history_matrix(corpus, queries)[:, known] @ weights_KK
        return scores_BI

    return write_lists(out, config, corpus, score, began=began, seed=seed, replace=replace)


def ease_weights(log_UK: sparse.csr_matrix, regularization: float) -> Floats:
    """(K, K) float32: entry (i, j) is what having i adds to the score of j.

    One matrix of that size is held; it is factorised and inverted in place.
    """
    gram_KK = np.asfortranarray((log_UK.T @ log_UK).toarray(), np.float32)
    gram_KK[np.diag_indices_from(gram_KK)] += regularization
    factor_KK, failed = lapack.spotrf(gram_KK, lower=1, overwrite_a=1)
    inverse_KK, failed_too = lapack.spotri(factor_KK, lower=1, overwrite_c=1)
    assert not failed
    assert not failed_too
    _mirror(inverse_KK)
    scale_K = -1 / np.diagonal(inverse_KK)
    inverse_KK *= scale_K
    np.fill_diagonal(inverse_KK, 0)
    weights_KK: Floats = inverse_KK
    return weights_KK


def _mirror(matrix: Floats) -> None:
    """Copy the lower triangle over the upper one, in place."""
    for start in range(0, len(matrix), BLOCK):
        rows = slice(start, start + BLOCK)
        matrix[:start, rows] = matrix[rows, :start].T
        corner = matrix[rows, rows]
        corner[...] = np.tril(corner) + np.tril(corner, -1).T
