"""Semantic IDs without meaning: a control of the same capacity and the same collisions."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from dasrec.core.artifacts import Manifest, write_artifact
from dasrec.core.corpus import Corpus
from dasrec.core.seeding import generator
from dasrec.core.semantic_ids import SemanticIds, SidTable, UserMoments, save_sids_payload


def write_shuffled(sids: SemanticIds, corpus: Corpus, out: Path, seed: int) -> Manifest:
    """Write a copy of semantic IDs, permuted among the items and among the users.

    SIDs over time move with their users, so that they change as rarely as the real ones.

    Args:
        sids: the real ones.
        corpus: what they were built from.
        out: directory of the new `semantic_ids` artifact; replaced where it exists.
        seed: of the permutations.
    """

    def payload(scratch: Path) -> None:
        users = None if sids.users is None else _permuted(sids.users, "users", seed)
        moments = None if sids.user_moments is None else _swapped(sids.user_moments, corpus, seed)
        save_sids_payload(scratch, _permuted(sids.items, "items", seed), users, (), moments)

    inputs = {"corpus": corpus.manifest, "shuffled": sids.manifest}
    return write_artifact(out, "semantic_ids", {}, inputs, payload, seed=seed, replace=True)


def _permuted(table: SidTable, side: str, seed: int) -> SidTable:
    order = generator(seed, "ranking", "shuffled", side).permutation(len(table.codes))
    return replace(table, codes=table.codes[order], vectors=table.vectors[order], retired=None)


def _swapped(moments: UserMoments, corpus: Corpus, seed: int) -> UserMoments:
    """Every user gets the SIDs over time of another one: their k-th, or their last, as k-th."""
    start_U = np.asarray(corpus.user_start)[:-1] + np.arange(corpus.num_users)
    count_U = np.diff(corpus.user_start) + 1
    other_U = generator(seed, "ranking", "shuffled", "moments").permutation(corpus.num_users)
    place = np.arange(len(moments.row)) - np.repeat(start_U, count_U)
    last = np.repeat(count_U[other_U] - 1, count_U)
    taken = np.repeat(start_U[other_U], count_U) + np.minimum(place, last)
    return replace(moments, row=moments.row[taken])
