"""New items by design: a random part of the catalogue loses its training events.

Public logs hold few items that are new at test time, and those few are odd ones. With a random
part made new, cold figures rest on many events of ordinary items.

Shape letters: N interactions, I items.
"""

import numpy as np
import numpy.typing as npt

from dasrec.core.corpus import SPLITS, Impressions
from dasrec.core.events import Events, Int8s
from dasrec.core.seeding import generator

TRAIN = SPLITS["train"]


def draw_cold(share: float | None, num_items: int, seed: int) -> npt.NDArray[np.bool_] | None:
    """(I,) which items are made new: `share` of them, rounded; None where nothing is asked for."""
    if share is None:
        return None
    cold_I = np.zeros(num_items, np.bool_)
    order = generator(seed, "prepare", "cold_items").permutation(num_items)
    cold_I[order[: round(share * num_items)]] = True
    return cold_I


def drop_cold_training(
    events: Events, split_N: Int8s, cold_I: npt.NDArray[np.bool_]
) -> tuple[Events, Int8s]:
    """Leave out the training interactions of cold items.

    Raises:
        ValueError: no training interaction is left.
    """
    kept = ~(cold_I[events.item] & (split_N == TRAIN))
    if not (split_N[kept] == TRAIN).any():
        raise ValueError("split.cold_items: no training interaction is left; give a lower share")
    return events.take(kept), split_N[kept]


def drop_cold_impressions(impressions: Impressions, cold_I: npt.NDArray[np.bool_]) -> Impressions:
    """Leave out the training impressions of cold items."""
    kept = ~(cold_I[impressions.item_idx] & (impressions.split == TRAIN))
    return impressions.take(kept)
