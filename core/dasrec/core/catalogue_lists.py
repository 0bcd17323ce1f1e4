"""Lists from scores of the whole catalogue: for which queries, and how scores become lists.

Ties go to the smaller item index, which is fair because `prepare` deals the indices at random.

Shape letters: Q queries, B queries of a block, I items, W width.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dasrec.core import Corpus, Manifest, Recommendations, StageConfig, write_recommendations
from dasrec.core.corpus import ExcludeSeen, Int32s, Int64s

Floats = npt.NDArray[np.float32]

MAX_SCORES = 1 << 24
"""Scores held at a time; bounds memory, never changes a result."""


class ListsConfig(StageConfig):
    """What every method that makes lists can be told."""

    width: int = Field(50, ge=1)
    """Items per list."""

    exclude_seen: ExcludeSeen = "never"
    """Leave out what the user had before the query. `as_in_training` does so if no user has the
    same item twice in the training interactions."""


def write_lists(
    out: str | Path,
    config: ListsConfig,
    corpus: Corpus,
    score: Callable[[Int64s], Floats],
    *,
    began: float,
    inputs: Mapping[str, Manifest] = {},
    seed: int = 0,
    replace: bool = False,
) -> Manifest:
    """Score the whole catalogue for every query and write the Recommendations artifact.

    Args:
        out: directory of the artifact.
        config: of the method; gives width and rule of the lists, and is kept in the manifest.
        corpus: gives the queries.
        score: (B,) queries -> (B, I) finite scores; may be overwritten.
        began: `time.perf_counter()` at the start of the stage.
        inputs: artifacts beside the corpus that the scores come from.
        seed: kept in the manifest.
        replace: swap an artifact that is already at `out`.
    """
    recommendations = recommend_blocks(corpus, config.width, config.exclude_seen, score)
    return write_recommendations(
        out,
        config.as_json(),
        {"corpus": corpus.manifest, **inputs},
        recommendations,
        seed=seed,
        metrics={"seconds": round(time.perf_counter() - began, 2)},
        replace=replace,
    )


def recommend_blocks(
    corpus: Corpus,
    width: int,
    exclude_seen: ExcludeSeen,
    score: Callable[[Int64s], Floats],
    queries: Int64s | None = None,
) -> Recommendations:
    """Lists for every query, scored over the whole catalogue block by block.

    Args:
        corpus: gives the queries and the histories.
        width: items per list; lists are shorter only where the catalogue runs out.
        exclude_seen: see `ExcludeSeen`.
        score: (B,) queries -> (B, I) finite scores; may be overwritten.
        queries: those to answer, ascending; None = all of validation and test.
    """
    if queries is None:
        queries = queries_of(corpus)
    size = max(1, MAX_SCORES // max(1, corpus.num_items))
    exclude = corpus.excludes_seen(exclude_seen)
    items = np.full((len(queries), width), -1, np.int32)
    scores = np.full((len(queries), width), -np.inf, np.float32)
    for start in range(0, len(queries), size):
        block = slice(start, start + size)
        scores_BI = score(queries[block])
        if exclude:
            scores_BI[seen_pairs(corpus, queries[block])] = -np.inf
        items[block], scores[block] = top_items(scores_BI, width)
    return Recommendations(queries, items, scores)


def queries_of(corpus: Corpus) -> Int64s:
    """(Q,) validation and test queries, ascending."""
    return np.sort(np.concatenate([corpus.queries("valid"), corpus.queries("test")]))


def top_items(scores_BI: Floats, width: int) -> tuple[Int32s, Floats]:
    """Best `width` items of every row, best first, ties by item index; -inf means barred.

    Returns:
        (B, W) items, -1 where a list is shorter; (B, W) scores, -inf there.
    """
    num_rows, num_items = scores_BI.shape
    kept = min(width, num_items)
    least_B = np.partition(scores_BI, num_items - kept, axis=1)[:, num_items - kept]
    # Every item that ties with the last place is a candidate, so that the index decides.
    row, item = np.nonzero((scores_BI >= least_B[:, None]) & (scores_BI > -np.inf))
    return ranked_lists(row, item, scores_BI[row, item], num_rows, width)


def ranked_lists(
    row: Int64s, item: Int64s, score: npt.NDArray[np.floating], num_rows: int, width: int
) -> tuple[Int32s, Floats]:
    """Lists from scored pairs, best first, ties by item index.

    Args:
        row: (P,) list that each pair belongs to, from 0.
        item: (P,) different items within a row.
        score: (P,)
        num_rows: B.
        width: W, items per list.

    Returns:
        (B, W) items, -1 where a list is shorter; (B, W) scores, -inf there.
    """
    order = np.lexsort((item, -score, row))
    row, item, score = row[order], item[order], score[order]
    place = np.arange(len(row)) - np.searchsorted(row, np.arange(num_rows))[row]
    fits = place < width
    items_BW = np.full((num_rows, width), -1, np.int32)
    best_BW = np.full((num_rows, width), -np.inf, np.float32)
    items_BW[row[fits], place[fits]] = item[fits]
    best_BW[row[fits], place[fits]] = score[fits]
    return items_BW, best_BW


def seen_pairs(corpus: Corpus, queries: Int64s) -> tuple[Int64s, Int32s]:
    """Places in `queries` and items of all events before each query."""
    histories = corpus.histories(queries, len(corpus.item_idx))
    return np.repeat(np.arange(len(queries)), np.diff(histories.starts)), histories.values
