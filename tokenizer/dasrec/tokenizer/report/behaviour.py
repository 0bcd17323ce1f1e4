"""What z knows of behaviour: popularity (leakage) and the next item (alignment).

Shape letters: I items, Q queries, D code dimension.
"""

import numpy as np
import numpy.typing as npt

from dasrec.core import Corpus
from dasrec.tokenizer.report.sampling import affordable, evenly, unit

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

RECALL_AT = (10, 50)
FIT_ROWS = 100_000
BLOCK = 2**25  # scores held at a time


def linear_r2(x: Floats, y: npt.NDArray[np.floating]) -> float:
    """R^2 of the least-squares fit of y on x: fitted on the even rows, measured on the odd."""
    design = np.column_stack([x, np.ones(len(x))]).astype(np.float64)
    weights = np.linalg.lstsq(design[::2], y[::2])[0]
    error = y[1::2] - design[1::2] @ weights
    spread = ((y[1::2] - y[1::2].mean()) ** 2).sum()
    return float(1 - (error**2).sum() / spread) if spread > 0 else 0.0


def popularity_r2(z_ID: Floats, popularity_I: Ints) -> float:
    """Linear R^2 of log1p training popularity from z, on at most 100,000 items."""
    rows = evenly(np.arange(len(z_ID)), FIT_ROWS)
    return linear_r2(z_ID[rows], np.log1p(popularity_I[rows]))


def alignment_recall(z_items: Floats, z_users: Floats, corpus: Corpus) -> dict[str, float]:
    """`alignment_recall@K`: share of validation targets among the K items nearest to the user's z.

    By cosine, the user's training items left out. A tie counts half: items with one SID have one
    z. Empty where there is nothing to predict, or where users and items have no common space.
    """
    queries_Q = evenly(corpus.queries("valid"), affordable(corpus.num_items))
    if not len(queries_Q) or z_items.shape[1] != z_users.shape[1]:
        return {}
    unit_ID = unit(z_items)
    size = max(BLOCK // corpus.num_items, 1)
    rank_Q = np.concatenate(
        [
            _ranks(queries_Q[start : start + size], z_users, unit_ID, corpus)
            for start in range(0, len(queries_Q), size)
        ]
    )
    return {f"alignment_recall@{k}": float((rank_Q < k).mean()) for k in RECALL_AT}


def _ranks(
    queries_Q: Ints, z_users: Floats, unit_ID: Floats, corpus: Corpus
) -> npt.NDArray[np.float64]:
    """(Q,) rank of the target from 0 among the items that are new to the user."""
    user, target = corpus.user_idx[queries_Q], corpus.item_idx[queries_Q]
    scores = unit(z_users[user]) @ unit_ID.T
    sequences = corpus.train_sequences
    lengths = sequences.starts[user + 1] - sequences.starts[user]
    first = np.repeat(sequences.starts[user] - np.cumsum(lengths) + lengths, lengths)
    seen = sequences.values[first + np.arange(lengths.sum())]
    scores[np.repeat(np.arange(len(queries_Q)), lengths), seen] = -np.inf
    of_target = scores[np.arange(len(queries_Q)), target][:, None]
    return np.asarray((scores > of_target).sum(1) + ((scores == of_target).sum(1) - 1) / 2)
