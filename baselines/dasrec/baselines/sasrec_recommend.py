"""Stage: rank the catalogue with a trained SASRec."""

import time
from pathlib import Path

import torch

from dasrec.baselines.sasrec_artifact import load_sasrec, score_queries
from dasrec.core import Corpus, Manifest
from dasrec.core.catalogue_lists import Floats, ListsConfig, write_lists
from dasrec.core.corpus import Int64s


class SasrecRecommendConfig(ListsConfig):
    """Lists of a trained SASRec."""


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

    inputs = {"model": manifest}
    return write_lists(
        out, config, corpus, score, began=began, inputs=inputs, seed=seed, replace=replace
    )
