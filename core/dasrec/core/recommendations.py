"""The Recommendations artifact: ranked items per query, what every method hands to `eval`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from dasrec.core.artifacts import Manifest, load_manifest, write_artifact
from dasrec.core.corpus import Corpus, Int32s, Int64s


@dataclass(frozen=True)
class Recommendations:
    """Top items per query; at most `width` each, best first.

    A query is the corpus row of its target (see `Corpus.queries`), so the rows of one artifact
    can belong to several splits.
    """

    queries: Int64s
    """(Q,) corpus row of each query, ascending."""
    item_idx: Int32s
    """(Q, width) item indices, best first, -1 where a list is shorter."""
    score: npt.NDArray[np.float32]
    """(Q, width) scores, not increasing along a row; -inf where there is no item."""
    manifest: Manifest | None = None


def write_recommendations(
    path: str | Path,
    config: dict[str, object],
    inputs: dict[str, Manifest],
    recommendations: Recommendations,
    *,
    seed: int = 0,
    metrics: dict[str, object] | None = None,
    replace: bool = False,
) -> Manifest:
    """Write query, item_idx, rank (from 1), score as Parquet, after checking the rules.

    Raises:
        ValueError: a list with a repeated item, a gap, or rising scores.
    """
    queries, items, scores = (
        recommendations.queries,
        recommendations.item_idx,
        recommendations.score,
    )
    real = items >= 0
    ordered = np.sort(np.where(real, items, -1 - np.arange(items.shape[1])), axis=1)
    if (np.diff(ordered, axis=1) == 0).any():
        raise ValueError("recommendations: an item appears twice in one list")
    if (~real[:, :-1] & real[:, 1:]).any():
        raise ValueError("recommendations: a list has a gap")
    if (real[:, 1:] & (scores[:, 1:] > scores[:, :-1])).any():
        raise ValueError("recommendations: scores rise along a list")
    row, column = np.nonzero(real)
    table = pl.DataFrame(
        {
            "query": queries[row],
            "item_idx": items[row, column],
            "rank": (column + 1).astype(np.int16),
            "score": scores[row, column].astype(np.float32),
        }
    )

    def payload(scratch: Path) -> None:
        table.write_parquet(scratch / "recommendations.parquet")
        np.save(scratch / "queries.npy", queries)

    return write_artifact(
        path,
        "recommendations",
        config,
        inputs,
        payload,
        seed=seed,
        metrics={"width": items.shape[1], **(metrics or {})},
        replace=replace,
    )


def load_recommendations(path: str | Path, corpus: Corpus) -> Recommendations:
    """Open a Recommendations artifact made from `corpus`."""
    manifest = load_manifest(path, "recommendations", {"corpus": corpus.manifest})
    table = pl.read_parquet(Path(path) / "recommendations.parquet")
    queries = np.load(Path(path) / "queries.npy")
    row = np.searchsorted(queries, table["query"].to_numpy())
    column = table["rank"].to_numpy() - 1
    width = int(manifest.metrics["width"])
    items = np.full((len(queries), width), -1, np.int32)
    scores = np.full((len(queries), width), -np.inf, np.float32)
    items[row, column] = table["item_idx"].to_numpy()
    scores[row, column] = table["score"].to_numpy()
    return Recommendations(queries, items, scores, manifest)
