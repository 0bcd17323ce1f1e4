"""Semantic IDs without meaning: a control of the same capacity and the same collisions."""

from dataclasses import replace
from pathlib import Path

from dasrec.core.artifacts import Manifest, write_artifact
from dasrec.core.corpus import Corpus
from dasrec.core.seeding import generator
from dasrec.core.semantic_ids import SemanticIds, SidTable, UserMoments, save_sids_payload


def write_shuffled(sids: SemanticIds, corpus: Corpus, out: Path, seed: int) -> Manifest:
    """Write a copy of semantic IDs, permuted among the items and among the users.

    Args:
        sids: the real ones.
        corpus: what they were built from.
        out: directory of the new `semantic_ids` artifact; replaced where it exists.
        seed: of the permutations.
    """

    def payload(scratch: Path) -> None:
        users = None if sids.users is None else _permuted(sids.users, "users", seed)
        moments = None if sids.user_moments is None else _mixed(sids.user_moments, seed)
        save_sids_payload(scratch, _permuted(sids.items, "items", seed), users, (), moments)

    inputs = {"corpus": corpus.manifest, "shuffled": sids.manifest}
    return write_artifact(out, "semantic_ids", {}, inputs, payload, seed=seed, replace=True)


def _permuted(table: SidTable, side: str, seed: int) -> SidTable:
    order = generator(seed, "ranking", "shuffled", side).permutation(len(table.codes))
    return replace(table, codes=table.codes[order], vectors=table.vectors[order], retired=None)


def _mixed(moments: UserMoments, seed: int) -> UserMoments:
    random = generator(seed, "ranking", "shuffled", "moments")
    return replace(moments, row=random.permutation(moments.row))
