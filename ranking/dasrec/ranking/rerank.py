"""Stage: RankingModel and Recommendations -> Recommendations in the order of CTR.

Shape letters: Q queries, C candidates per query.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dasrec.core import check_free
from dasrec.core.artifacts import Manifest
from dasrec.core.config import StageConfig
from dasrec.core.corpus import SPLITS, Corpus, Int64s
from dasrec.core.recommendations import (
    Recommendations,
    load_recommendations,
    write_recommendations,
)
from dasrec.core.semantic_ids import SemanticIds
from dasrec.ranking.features.encode import known_context
from dasrec.ranking.ranker import Ranker, load_ranker

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

NDCG_K = 10


class RerankConfig(StageConfig):
    """Re-scoring of generated candidates: score = CTR logit + w * generator score."""

    k: int | None = Field(default=None, ge=1)
    """Keep the first k; none given = all candidates."""

    generator_weight: float | None = Field(default=None, ge=0)
    """w; none given = the best of `weight_grid` by NDCG@10 on the validation queries."""

    weight_grid: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
    """Values of w to try. A CTR model is trained on exposures or sampled negatives, not on what
    the generator proposes, so its order alone may be worse than the generator's."""

    batch_size: int = Field(default=8192, ge=1)
    """Candidates scored at a time."""


def rerank(
    config: RerankConfig,
    ranker_path: Path,
    recommendations_path: Path,
    corpus: Corpus,
    sids: SemanticIds | None,
    out: Path,
    *,
    seed: int = 0,
    replace: bool = False,
) -> Manifest:
    """Score every candidate given what precedes its query, and sort.

    Args:
        config: the stage's config.
        ranker_path: a `ranking_model` artifact.
        recommendations_path: the candidates, a `recommendations` artifact.
        corpus: the corpus both were made from.
        sids: the semantic IDs the ranker was trained with.
        out: directory of the new `recommendations` artifact.
        seed: recorded; nothing is random here.
        replace: swap an artifact that is already at `out`.

    Raises:
        FileExistsError: `out` exists and `replace` is false.
        ValueError: artifacts that do not belong together, or no validation query to choose w on.
    """
    check_free(Path(out), replace)
    ranker = load_ranker(ranker_path, corpus, sids)
    candidates = load_recommendations(recommendations_path, corpus)
    valid = corpus.split[candidates.queries] == SPLITS["valid"]
    if config.generator_weight is None and not valid.any():
        raise ValueError(
            f"rerank.generator_weight: {recommendations_path} has no validation queries to choose "
            "it on; generate for the valid split too, or set generator_weight"
        )
    logits = score_candidates(
        ranker, corpus, candidates.queries, candidates.item_idx, config.batch_size
    )
    weight, metrics = _choose_weight(config, candidates, logits, corpus, valid)
    assert candidates.manifest is not None
    assert ranker.manifest is not None
    inputs = {
        "corpus": corpus.manifest,
        "ranking_model": ranker.manifest,
        "candidates": candidates.manifest,
    }
    if sids is not None:
        inputs["semantic_ids"] = sids.manifest
    return write_recommendations(
        out,
        config.as_json(),
        inputs,
        _sorted(candidates, _blend(logits, candidates.score, weight), config.k),
        seed=seed,
        metrics=metrics,
        replace=replace,
    )


def score_candidates(
    ranker: Ranker,
    corpus: Corpus,
    queries_Q: Int64s,
    items_QC: npt.NDArray[np.integer],
    batch_size: int = 8192,
) -> Floats:
    """(Q, C) CTR logits of items given what precedes each query; -inf where there is no item.

    Args:
        ranker: the model.
        corpus: the corpus that the queries are rows of.
        queries_Q: (Q,) interaction rows, see `Corpus.queries`; they need not differ.
        items_QC: (Q, C) item_idx, -1 where there is none.
        batch_size: candidates at a time.
    """
    row, column = np.nonzero(items_QC >= 0)
    query = queries_Q[row]
    logits = np.full(items_QC.shape, -np.inf, np.float32)
    logits[row, column] = ranker.score(
        corpus.user_idx[query],
        items_QC[row, column].astype(np.int64),
        query,
        batch_size,
        known_context(ranker.model.schema, corpus.timestamp[query]),
    )
    return logits


def _blend(logits: Floats, generator_score: Floats, weight: float) -> Floats:
    real = np.isfinite(logits)
    return np.where(real, logits + weight * np.where(real, generator_score, 0), -np.inf).astype(
        np.float32
    )


def _choose_weight(
    config: RerankConfig,
    candidates: Recommendations,
    logits: Floats,
    corpus: Corpus,
    valid: npt.NDArray[np.bool_],
) -> tuple[float, dict[str, Any]]:
    if config.generator_weight is not None:
        return config.generator_weight, {"generator_weight": config.generator_weight}
    target = corpus.item_idx[candidates.queries[valid]]
    items = candidates.item_idx[valid]

    def measure(scores: Floats) -> float:
        return _ndcg(np.take_along_axis(items, _order(scores), axis=1), target)

    grid = [
        measure(_blend(logits[valid], candidates.score[valid], weight))
        for weight in config.weight_grid
    ]
    best = config.weight_grid[int(np.argmax(grid))]
    metrics = {
        "generator_weight": best,
        "valid_ndcg@10": {
            "generator": measure(candidates.score[valid]),
            **{str(weight): value for weight, value in zip(config.weight_grid, grid, strict=True)},
        },
    }
    log.info("rerank: generator_weight %g  %s", best, metrics["valid_ndcg@10"])
    return best, metrics


def _order(scores: Floats) -> npt.NDArray[np.int64]:
    return np.argsort(-scores, axis=1, kind="stable")  # ties keep the generator's order


def _ndcg(items: npt.NDArray[np.int32], target: npt.NDArray[np.int32]) -> float:
    hit_QK = items[:, :NDCG_K] == target[:, None]
    return float((hit_QK / np.log2(np.arange(hit_QK.shape[1]) + 2)).sum(1).mean())


def _sorted(candidates: Recommendations, scores: Floats, k: int | None) -> Recommendations:
    order = _order(scores)[:, :k]
    return Recommendations(
        candidates.queries,
        np.take_along_axis(candidates.item_idx, order, axis=1),
        np.take_along_axis(scores, order, axis=1),
    )
