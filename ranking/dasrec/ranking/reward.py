"""The CTR model as a reward: how likely is a click on what somebody proposes.

Shape letters: B queries, G items proposed for each.
"""

import numpy as np
import numpy.typing as npt

from dasrec.core.corpus import Corpus, Int64s
from dasrec.ranking.ranker import Ranker
from dasrec.ranking.rerank import score_candidates


def click_probabilities(
    ranker: Ranker,
    corpus: Corpus,
    queries_B: Int64s,
    items_BG: npt.NDArray[np.integer],
    batch_size: int = 8192,
) -> npt.NDArray[np.float32]:
    """(B, G) calibrated click probabilities of proposed items, 0 where there is none.

    What alignment rewards proposals with; any evaluator of lists can call it as well. Runs on the
    ranker's device, all pairs in batches, and gives the same values in any order of queries.

    Args:
        ranker: from `load_ranker`.
        corpus: the corpus that the queries are rows of.
        queries_B: (B,) interaction rows, see `Corpus.queries`: the row's user is asked, given all
            that precedes the row. They need not differ.
        items_BG: (B, G) item_idx, -1 where there is none.
        batch_size: pairs at a time.
    """
    logits = score_candidates(ranker, corpus, queries_B, items_BG, batch_size)
    real = items_BG >= 0
    probability = np.zeros(logits.shape, np.float32)
    probability[real] = ranker.probability(logits[real])
    return probability
