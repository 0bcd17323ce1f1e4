from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.walks import write_walks

from dasrec.core import Corpus

MakeCorpus = Callable[..., Corpus]


@pytest.fixture
def make_corpus(tmp_path: Path) -> MakeCorpus:
    """See `write_walks`."""

    def make(sequences: Sequence[Sequence[int]], num_items: int, name: str = "corpus") -> Corpus:
        return write_walks(tmp_path / "corpora" / name, sequences, num_items)

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
