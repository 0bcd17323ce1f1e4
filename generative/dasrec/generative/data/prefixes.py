"""One example per target with the history before it: how LC-Rec, TIGER and MiniOneRec train.

Kept for comparison: an example learns one item, where a row of `training_windows` learns them all.
"""

import numpy as np

from dasrec.core import Corpus, Ragged
from dasrec.generative.data.sequences import Windows
from dasrec.generative.data.tokens import TokenSequences, starts_of


def prefix_windows(corpus: Corpus, max_history: int) -> Windows:
    """One window per training item: the item, and up to `max_history` of the user's before it."""
    sequences = corpus.train_sequences
    counts = np.diff(sequences.starts)
    item = np.arange(len(sequences.values))
    before = np.minimum(item - np.repeat(sequences.starts[:-1], counts), max_history)
    starts = starts_of(before + 1)
    flat = np.arange(starts[-1]) + np.repeat(item - before - starts[:-1], before + 1)
    return Windows(
        np.repeat(np.arange(corpus.num_users), counts),
        Ragged(sequences.values[flat], starts),
        np.asarray(corpus.timestamp[corpus.train_rows])[flat],
    )


def last_item_only(rows: TokenSequences, levels: int) -> TokenSequences:
    """The same rows with the last item's `levels` tokens as the only targets."""
    last = np.zeros_like(rows.targets)
    last[rows.starts[1:, None] - 1 - np.arange(levels)] = True
    return rows._replace(targets=rows.targets & last)
