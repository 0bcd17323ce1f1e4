"""What a primitive recommender would have listed: the yardstick of serendipity.

Two rules, both of training interactions only: the most popular items, and the items that stood most
often near those of the history. Nothing is left out of their lists.

Shape letters: Q queries, B queries of a block, I items.
"""

import numpy as np
from scipy import sparse

from dasrec.core.cooccurrence import pair_counts
from dasrec.core.corpus import Corpus, Int64s

WINDOW = 5
"""Two training events of a user are neighbours up to this many places apart."""

HISTORY = 20
"""Latest events before the query that vote, each occurrence once."""

_BLOCK = 1024  # queries at a time; bounds memory, never changes a result


def expected_ranks(corpus: Corpus, queries: Int64s) -> Int64s:
    """(Q,) rank of each query's target in the better one of the two primitive lists, from 1.

    Ties go to the smaller item index, which `prepare` deals at random.
    """
    targets = np.asarray(corpus.item_idx[queries]).astype(np.int64)
    order = np.lexsort((np.arange(corpus.num_items), -corpus.train_item_count))
    place = np.empty(corpus.num_items, np.int64)
    place[order] = np.arange(1, corpus.num_items + 1)
    popular = place[targets]
    neighbours = pair_counts(corpus, WINDOW)
    near = np.zeros(len(queries), np.int64)
    for start in range(0, len(queries), _BLOCK):
        block = slice(start, start + _BLOCK)
        near[block] = _ranks_by_votes(corpus, queries[block], targets[block], neighbours)
    return np.where(near > 0, np.minimum(near, popular), popular)


def _ranks_by_votes(
    corpus: Corpus, queries: Int64s, targets: Int64s, neighbours: sparse.csr_array
) -> Int64s:
    """(B,) rank of each target by the votes of the history, 0 for a target without a vote."""
    histories = corpus.histories(queries, HISTORY)
    ones = np.ones(len(histories.values))
    shape = (len(queries), corpus.num_items)
    votes = sparse.csr_array((ones, histories.values, histories.starts), shape=shape) @ neighbours
    row = np.repeat(np.arange(len(queries)), np.diff(votes.indptr))
    is_target = votes.indices == targets[row]
    own = np.bincount(row[is_target], votes.data[is_target], minlength=len(queries))
    ahead = (votes.data > own[row]) | ((votes.data == own[row]) & (votes.indices < targets[row]))
    ranks = 1 + np.bincount(row[ahead], minlength=len(queries))
    return np.where(own > 0, ranks, 0)
