"""Stage: rank the catalogue with a trained SASRec."""

import time
from pathlib import Path

import torch
from pydantic import Field

from dasrec.baselines.lists import Floats, recommend_blocks
from dasrec.baselines.sasrec_artifact import load_sasrec, score_queries
from dasrec.core import Corpus, Manifest, StageConfig, write_recommendations
from dasrec.core.corpus import ExcludeSeen, Int64s


class SasrecRecommendConfig(StageConfig):
    """Lists of a trained SASRec."""

    width: int = Field(50, ge=1)
    """Items per list."""

    exclude_seen: ExcludeSeen = "never"
    """Leave out what the user had before the query. `as_in_training` does so if no user has the
    same item twice in the training interactions."""


def recommend_sasrec(
    config: SasrecRecommendConfig,
    corpus: Corpus,
    model_path: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    replace: bool = False,
) -> Manifest:
    """Rank the whole catalogue with a trained SASRec, for validation and test queries.

    Args:
        config: the lists.
        corpus: what the model was trained on.
        model_path: a "sasrec_model" artifact.
        out: directory of the Recommendations artifact.
        seed: kept in the manifest; nothing here is random.
        replace: swap an artifact that is already at `out`.
    """
    began = time.perf_counter()
    model, manifest = load_sasrec(model_path, corpus)

    def score(queries: Int64s) -> Floats:
        with torch.inference_mode():
            scores: Floats = score_queries(model, corpus, queries).cpu().numpy()
        return scores

    recommendations = recommend_blocks(corpus, config.width, config.exclude_seen, score)
    return write_recommendations(
        out,
        config.as_json(),
        {"corpus": corpus.manifest, "model": manifest},
        recommendations,
        seed=seed,
        metrics={"seconds": round(time.perf_counter() - began, 2)},
        replace=replace,
    )
