"""The CTR model as a reward of the generator's alignment."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from dasrec.core import Corpus, Recommendations, SemanticIds
from dasrec.generative.preference.rewards import RewardScores


def ranker_scores(path: Path, corpus: Corpus, sids: SemanticIds) -> RewardScores:
    """Click probabilities by a `ranking_model` artifact, given what precedes each query."""
    from dasrec.ranking.ranker import load_ranker
    from dasrec.ranking.rerank import score_candidates

    ranker = load_ranker(path, corpus, sids)
    assert ranker.manifest is not None

    def score(
        queries_B: npt.NDArray[np.int64], items_BG: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        items = items_BG.astype(np.int32)
        proposed = Recommendations(queries_B, items, np.zeros(items.shape, np.float32))
        # one ufunc, which takes the -inf of a place without an item
        probability: npt.NDArray[np.float32] = expit(score_candidates(ranker, proposed, corpus))
        return probability

    return RewardScores(ranker.manifest, score)
