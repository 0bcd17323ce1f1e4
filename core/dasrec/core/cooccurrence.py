"""Encoder `cooccurrence`: collaborative item vectors from the training interactions alone.

Shifted positive PMI of items that stand near each other in users' histories, factorised: what
skip-gram with negative sampling factorises implicitly (Levy & Goldberg, NIPS 2014).

Shape letters: I items, N interactions, D width.
"""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dasrec.core.config import StageConfig
from dasrec.core.corpus import Corpus
from dasrec.core.encoders import normalise
from dasrec.core.seeding import derive_seed

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]


class CooccurrenceConfig(StageConfig):
    """Factorised shifted positive PMI."""

    dim: int = Field(default=32, ge=1)
    """Width D."""

    window: int = Field(default=5, ge=1)
    """Items at most this many positions apart in a user's training history count as a pair."""

    negatives: int = Field(default=1, ge=1)
    """k of the shift: the PMI is lowered by log k, so that weaker pairs count as nothing."""


def cooccurrence(config: CooccurrenceConfig, corpus: Corpus, seed: int, where: str) -> Floats:
    """(I, D) rows of U S^(1/2) of the SPPMI matrix's truncated SVD U S V^T, of unit length.

    SPPMI_ij = max(0, log(n_ij n / (n_i n_j)) - log k), n_ij the pairs of i and j (both ways,
    i != j), n_i and n their sums. Items without any positive entry, those without training
    interactions among them, get the zero vector.

    Args:
        config: width, window and shift.
        corpus: only `train_sequences` is read.
        seed: seeds the randomised SVD.
        where: the section's name, for messages.

    Raises:
        ValueError: fewer items with a pair than `config.dim`.
    """
    from sklearn.utils.extmath import randomized_svd

    matrix = shifted_ppmi(pair_counts(corpus, config.window), config.negatives)
    known = np.diff(matrix.indptr) > 0
    if config.dim > known.sum():
        raise ValueError(
            f"{where}: embed.cooccurrence.dim is {config.dim}, but only {known.sum()} items stand "
            "near another one in the training histories; choose a smaller dim or a wider window"
        )
    left, values, _ = randomized_svd(
        matrix,
        config.dim,
        n_iter=7,
        power_iteration_normalizer="QR",
        random_state=derive_seed(seed, "embed", "cooccurrence"),
    )
    log.info("embed: %d items without co-occurrences get zero vectors", int((~known).sum()))
    vectors = normalise(left * np.sqrt(values))
    vectors[~known] = 0  # the SVD leaves rounding errors there, which normalise would blow up
    return vectors


def pair_counts(corpus: Corpus, window: int) -> Any:
    """(I, I) symmetric CSR counts of item pairs at most `window` training positions apart."""
    from scipy.sparse import coo_array, csr_array

    items, starts = corpus.train_sequences
    user = np.repeat(np.arange(corpus.num_users), np.diff(starts))
    shape = (corpus.num_items, corpus.num_items)
    counts = csr_array(shape, dtype=np.float64)
    for distance in range(1, window + 1):
        left, right = items[:-distance], items[distance:]
        kept = (user[:-distance] == user[distance:]) & (left != right)
        ones = np.ones(kept.sum(), np.float64)
        counts += coo_array((ones, (left[kept], right[kept])), shape=shape).tocsr()
    return (counts + counts.T).tocsr()


def shifted_ppmi(counts: Any, negatives: int) -> Any:
    """Pair counts to CSR shifted positive PMI; entries that are not positive are left out."""
    pairs = counts.tocoo()
    per_item = np.asarray(counts.sum(axis=1)).ravel()
    expected = per_item[pairs.row] * per_item[pairs.col] * negatives
    pairs.data = np.maximum(0.0, np.log(pairs.data * per_item.sum() / expected))
    matrix = pairs.tocsr()
    matrix.eliminate_zeros()
    return matrix
