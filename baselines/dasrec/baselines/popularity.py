"""Popularity: everyone gets the items with the most training interactions."""

import time
from pathlib import Path

import numpy as np
from pydantic import Field

from dasrec.baselines.lists import Floats, recommend_blocks
from dasrec.core import Corpus, Manifest, StageConfig, write_recommendations
from dasrec.core.corpus import ExcludeSeen, Int64s


class PopularityConfig(StageConfig):
    """The list of the most popular items."""

    width: int = Field(50, ge=1)
    """Items per list."""

    exclude_seen: ExcludeSeen = "never"
    """Leave out what the user had before the query. `as_in_training` does so if no user has the
    same item twice in the training interactions."""


def recommend_popularity(
    config: PopularityConfig, corpus: Corpus, out: Path, *, seed: int = 0, replace: bool = False
) -> Manifest:
    """Rank items by their number of training interactions, for validation and test queries.

    Args:
        config: width of the lists.
        corpus: its training interactions are counted.
        out: directory of the Recommendations artifact.
        seed: kept in the manifest; nothing here is random.
        replace: swap an artifact that is already at `out`.
    """
    began = time.perf_counter()
    count_I = corpus.train_item_count.astype(np.float32)

    def score(queries: Int64s) -> Floats:
        return np.tile(count_I, (len(queries), 1))

    recommendations = recommend_blocks(corpus, config.width, config.exclude_seen, score)
    return write_recommendations(
        out,
        config.as_json(),
        {"corpus": corpus.manifest},
        recommendations,
        seed=seed,
        metrics={"seconds": round(time.perf_counter() - began, 2)},
        replace=replace,
    )
