from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dasrec.core import Corpus, load_corpus, write_artifact
from dasrec.core.corpus import save_corpus_payload

MakeCorpus = Callable[..., Corpus]


@pytest.fixture
def make_corpus(tmp_path: Path) -> MakeCorpus:
    """Corpus from lists of item indices; the last event is test, the one before it validation."""

    def make(sequences: Sequence[Sequence[int]], num_items: int, name: str = "corpus") -> Corpus:
        lengths = [len(sequence) for sequence in sequences]
        back = np.concatenate([np.arange(n)[::-1] for n in lengths])
        users = pl.DataFrame({"user_id": [f"u{i}" for i in range(len(sequences))]})
        items = pl.DataFrame({"item_id": [f"i{i}" for i in range(num_items)]})

        def payload(path: Path) -> None:
            save_corpus_payload(
                path,
                user_idx=np.repeat(np.arange(len(sequences)), lengths).astype(np.int32),
                item_idx=np.concatenate([np.asarray(s, np.int32) for s in sequences]),
                timestamp=np.arange(sum(lengths), dtype=np.int64),
                split=np.where(back == 0, 2, np.where(back == 1, 1, 0)).astype(np.int8),
                users=users,
                items=items,
                impressions=None,
            )

        write_artifact(tmp_path / "corpora" / name, "corpus", {}, {}, payload)
        return load_corpus(tmp_path / "corpora" / name)

    return make


@pytest.fixture
def checkerboard(make_corpus: MakeCorpus) -> Corpus:
    """Even users have the even items, odd users the odd ones, each in an order of their own.

    Before the test query a user has had all items of their colour but one: without the items seen,
    that one must come first.
    """
    rng = np.random.default_rng(0)
    colours = [np.arange(user % 2, 20, 2) for user in range(80)]
    return make_corpus([rng.permutation(colour).tolist() for colour in colours], 20)
