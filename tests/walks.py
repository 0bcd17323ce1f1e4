"""A corpus from nothing but who had what in which order."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from dasrec.core import Corpus, load_corpus, write_artifact
from dasrec.core.corpus import save_corpus_payload


def write_walks(path: Path, sequences: Sequence[Sequence[int]], num_items: int) -> Corpus:
    """Corpus from lists of item indices; the last event is test, the one before it validation."""
    lengths = [len(sequence) for sequence in sequences]
    back = np.concatenate([np.arange(n)[::-1] for n in lengths])
    users = pl.DataFrame({"user_id": [f"u{i}" for i in range(len(sequences))]})
    items = pl.DataFrame({"item_id": [f"i{i}" for i in range(num_items)]})

    def payload(scratch: Path) -> None:
        save_corpus_payload(
            scratch,
            user_idx=np.repeat(np.arange(len(sequences)), lengths).astype(np.int32),
            item_idx=np.concatenate([np.asarray(s, np.int32) for s in sequences]),
            timestamp=np.arange(sum(lengths), dtype=np.int64),
            split=np.where(back == 0, 2, np.where(back == 1, 1, 0)).astype(np.int8),
            users=users,
            items=items,
            impressions=None,
        )

    write_artifact(path, "corpus", {}, {}, payload)
    return load_corpus(path)
