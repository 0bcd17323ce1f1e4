"""User SIDs over time: what the user side makes of every history up to each of its events.

Shape letters: R rows, S distinct SIDs, L levels, D code dimension.
"""

import numpy as np
import torch

from dasrec.core import Corpus, Embeddings
from dasrec.core.moments import history_means_over_time, num_moments
from dasrec.core.semantic_ids import UserMoments
from dasrec.tokenizer.objective import Side


def check_histories(embeddings: Embeddings) -> None:
    """Refuse user vectors that cannot be made again for an earlier moment.

    Raises:
        ValueError: they are not means of histories.
    """
    encoder = embeddings.manifest.config["users"]["encoder"]
    if encoder != "history_mean":
        raise ValueError(
            "assign.user_moments: needs user vectors that follow from the history, but "
            f"embed.users.encoder is '{encoder}'; set it to history_mean or switch user_moments off"
        )


def encode_moments(side: Side, corpus: Corpus, embeddings: Embeddings) -> UserMoments:
    """SIDs of all users at every moment of their histories.

    Args:
        side: of the users, trained.
        corpus: the histories.
        embeddings: with user vectors that passed `check_histories`.
    """
    half_life = float(embeddings.manifest.config["users"]["half_life"])
    items = np.asarray(embeddings.items, np.float32)
    row = np.empty(num_moments(corpus), np.int64)
    codes, vectors, first = [], [], 0
    for moments, x_RX in history_means_over_time(corpus, items, half_life):
        encoded = side.quantize(torch.from_numpy(x_RX))
        distinct_SL, place, inverse = np.unique(
            encoded.codes_NL.numpy(), axis=0, return_index=True, return_inverse=True
        )
        row[moments] = first + inverse.reshape(-1)
        codes.append(distinct_SL)
        vectors.append(encoded.z_ND.numpy()[place])  # equal codes have equal vectors
        first += len(distinct_SL)
    distinct_SL, place, inverse = np.unique(
        np.concatenate(codes), axis=0, return_index=True, return_inverse=True
    )
    return UserMoments(
        distinct_SL.astype(np.uint16),
        np.concatenate(vectors)[place],
        inverse.reshape(-1)[row].astype(np.int32),
    )
