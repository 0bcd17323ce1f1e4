"""The CTR model as a reward of the generator's alignment."""

from functools import partial
from pathlib import Path

from dasrec.core import Corpus, SemanticIds
from dasrec.generative.preference.rewards import RewardScores


def ranker_scores(path: Path, corpus: Corpus, sids: SemanticIds) -> RewardScores:
    """Click probabilities by a `ranking_model` artifact, given what precedes each query."""
    from dasrec.ranking.ranker import load_ranker
    from dasrec.ranking.reward import click_probabilities

    ranker = load_ranker(path, corpus, sids)
    assert ranker.manifest is not None
    return RewardScores(ranker.manifest, partial(click_probabilities, ranker, corpus))
