"""Training log and histories as sparse matrices of 0 and 1.

Shape letters: U users, B queries of a block, I items.
"""

import numpy as np
from scipy import sparse

from dasrec.core import Corpus, Ragged
from dasrec.core.corpus import Int64s


def train_matrix(corpus: Corpus) -> sparse.csr_matrix:
    """(U, I) float32: 1 where the user has the item in the training interactions."""
    return _matrix(corpus.train_sequences, corpus.num_items)


def history_matrix(corpus: Corpus, queries: Int64s) -> sparse.csr_matrix:
    """(B, I) float32: 1 where the item is in the history of the query, which may be long."""
    return _matrix(corpus.histories(queries, len(corpus.item_idx)), corpus.num_items)


def _matrix(rows: Ragged, num_items: int) -> sparse.csr_matrix:
    ones = np.ones(len(rows.values), np.float32)
    shape = (len(rows.starts) - 1, num_items)
    # A copy: sum_duplicates would sort the corpus's own arrays.
    matrix = sparse.csr_matrix((ones, rows.values, rows.starts), shape=shape, copy=True)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix
