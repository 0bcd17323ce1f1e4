"""Users over time: a vector for each moment of a user's history.

A moment is a user of whom the first so many interactions are known. The one of user u whose history
is `interactions[user_start[u]:end]` has the number `end + u`, so that N interactions of U users
make N + U moments. Shape letters: I items, D width, R rows.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dasrec.core.corpus import Corpus, Int64s
from dasrec.core.encoders import mean_interaction, normalise

Floats = npt.NDArray[np.float32]


def num_moments(corpus: Corpus) -> int:
    """N + U."""
    return len(corpus.item_idx) + corpus.num_users


def history_means_over_time(
    corpus: Corpus, items: Floats, half_life: float
) -> Iterator[tuple[Int64s, Floats]]:
    """What `history_mean` makes of every moment's history, whatever the split of its events.

    Every vector is made of what came before its moment and of nothing later. The history is empty
    at a user's first moment; its vector is that of users without training items.

    Args:
        corpus: the interactions.
        items: (I, D) vectors.
        half_life: an item this many interactions older weighs half.

    Yields:
        (R,) numbers of moments and (R, D) unit vectors: the first moment of all users, then the
        second of those who have one, and so on.
    """
    start_U = np.asarray(corpus.user_start[:-1])
    length_U = np.diff(corpus.user_start)
    by_length = np.argsort(-length_U, kind="stable")
    user_U = np.arange(corpus.num_users)
    decay = np.float32(0.5 ** (1 / half_life))
    yield (
        start_U + user_U,
        np.repeat(normalise(mean_interaction(corpus, items)[None]), len(user_U), 0),
    )
    sums_UD = np.zeros((corpus.num_users, items.shape[1]), np.float32)
    for place in range(int(length_U.max(initial=0))):
        users = by_length[: np.searchsorted(-length_U[by_length], -place, side="left")]
        latest = items[corpus.item_idx[start_U[users] + place]]
        sums_UD[users] = decay * sums_UD[users] + latest
        yield start_U[users] + place + 1 + users, normalise(sums_UD[users])
