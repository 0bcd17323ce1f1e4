"""Prompts for alignment: positions of training sequences, rendered as requests are.

Shape letters: P prompts, B prompts of a batch, T prompt tokens.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from dasrec.core import Corpus, generator
from dasrec.generative.data.sequences import SequenceBuilder
from dasrec.generative.data.tokens import TokenSequences
from dasrec.generative.retrieve import padded_prompts, query_prompts

Int64s = npt.NDArray[np.int64]


class Prompts(NamedTuple):
    """Positions of training sequences: what came before, and the item that came next."""

    rows: Int64s
    """(P,) interaction row of each target."""
    tokens: TokenSequences
    """The history before it."""
    targets: Int64s
    """(P,) the item that came next."""

    def padded(self, chosen: Int64s) -> tuple[Tensor, Tensor]:
        """(B, T) token ids and attention mask of some prompts, padded on the left."""
        return padded_prompts(self.tokens, chosen)


def training_prompts(
    corpus: Corpus,
    builder: SequenceBuilder,
    per_user: int,
    most: int | None,
    seed: int,
) -> Prompts:
    """The last training positions of every user that have training events before them.

    Args:
        corpus: only its training rows are read.
        builder: renders the histories.
        per_user: positions per user at most.
        most: prompts at most, a random subset; None = all.
        seed: of the subset.

    Raises:
        ValueError: no user has two training events.
    """
    rows = training_positions(corpus, per_user)
    if not len(rows):
        raise ValueError(
            "positions_per_user: no user of the corpus has two training events, so there is no "
            "position to ask for; leave out the alignment"
        )
    if most is not None:
        rows = np.sort(generator(seed, "prompts").permutation(rows)[:most])
    prompts = query_prompts(corpus, builder, rows)
    return Prompts(rows, prompts, np.asarray(corpus.item_idx[rows], np.int64))


def training_positions(corpus: Corpus, per_user: int) -> Int64s:
    """Rows of the last `per_user` training events of each user that follow training events only."""
    rows = corpus.train_rows
    user = corpus.user_idx[rows]
    counts = np.bincount(user, minlength=corpus.num_users)
    before = np.arange(len(rows)) - (np.cumsum(counts) - counts)[user]
    clean = rows - corpus.user_start[user] == before  # no validation or test event comes earlier
    chosen: Int64s = rows[(before > 0) & clean & (counts[user] - before <= per_user)]
    return chosen
