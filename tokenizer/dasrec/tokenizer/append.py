"""A later version of a SID table: published rows stay byte for byte, new rows stand beside them.

Rows are matched by external id. Rows that the corpus no longer has are retired: they keep their
SIDs, which nobody else gets, and have them again should they return.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from dasrec.core import Embeddings, Manifest, SemanticIds, SidTable
from dasrec.tokenizer.policies import AssignConfig

Ints = npt.NDArray[np.int64]


def match_ids(ids: pl.Series, wanted: pl.Series) -> Ints:
    """Row of each `wanted` id in `ids` (distinct), -1 where it is not there."""
    rows = pl.Series(np.arange(len(ids)), dtype=pl.Int64)
    return wanted.replace_strict(ids, rows, default=-1, return_dtype=pl.Int64).to_numpy()


def check_extends(
    config: AssignConfig,
    published: SemanticIds,
    tokenizer: Path,
    embeddings: Embeddings,
    inputs: Mapping[str, Manifest],
) -> None:
    """Refuse to extend a table with SIDs that were not made the same way.

    Args:
        config: the collision policy.
        published: the table to extend.
        tokenizer: path of the tokenizer artifact.
        embeddings: of the later corpus.
        inputs: manifests of the later corpus and of the tokenizer.

    Raises:
        ValueError: another tokenizer, policy, corpus, embedding space or width.
    """
    made_from, given = published.manifest.inputs, inputs["tokenizer"].fingerprint
    if made_from.get("tokenizer") != given:
        raise ValueError(
            f"assign: the published SIDs come from tokenizer {made_from.get('tokenizer')}, but "
            f"{tokenizer} is {given}; give the tokenizer they were made with"
        )
    policy = published.manifest.config
    if (policy["collisions"], policy.get("cap")) != (config.collisions, config.cap):
        raise ValueError(
            f"assign.collisions: the published SIDs follow '{policy['collisions']}' (cap "
            f"{policy.get('cap')}), got '{config.collisions}' (cap {config.cap}); keep the policy"
        )
    if embeddings.manifest.inputs.get("corpus") != inputs["corpus"].fingerprint:
        raise ValueError("assign: the embeddings are of another corpus; embed this corpus")
    spaces = {embeddings.space, embeddings.manifest.fingerprint}
    spaces.add(embeddings.manifest.inputs.get("fitted_on", ""))
    if not spaces & {inputs["tokenizer"].inputs["embeddings"], made_from["embeddings"]}:
        raise ValueError(
            "assign: the embeddings were not made with the encoders that the tokenizer knows; "
            "embed this corpus with --fitted-on the embeddings of the published SIDs"
        )
    sizes = json.loads((tokenizer / "config.json").read_text())["sizes"]
    matrices = {"users": embeddings.users, **embeddings.modalities}
    for name, width in {"users": sizes["users"], **sizes["items"]}.items():
        if name not in matrices or matrices[name].shape[1] != width:
            found = matrices[name].shape[1] if name in matrices else "none"
            raise ValueError(
                f"embeddings.{name}: the tokenizer takes vectors of width {width}, got {found}; "
                "give vectors of the model that made the first ones"
            )


def known_rows(published: SidTable, side: str) -> SidTable:
    """All rows that ever got a SID: those of the table, then the retired ones.

    Raises:
        ValueError: the table has no ids.
    """
    if published.ids is None:
        raise ValueError(
            f"assign: the published table of {side} has no ids (an earlier version of dasrec made "
            "it), so its rows cannot be recognised; assign it again first"
        )
    retired = published.retired
    if retired is None:
        return published
    assert retired.ids is not None
    return dataclasses.replace(
        published,
        codes=np.concatenate([published.codes, retired.codes]),
        vectors=np.concatenate([published.vectors, retired.vectors]),
        ids=pl.concat([published.ids.rename("id"), retired.ids.rename("id")]),
        retired=None,
    )


def append_rows(
    known: SidTable, learned: SidTable, resolve: Callable[[SidTable, Ints], SidTable]
) -> SidTable:
    """The next version of a table.

    Args:
        known: all rows that ever got a SID, see `known_rows`.
        learned: one row per row of the corpus: its id, and the codes that its content has now.
        resolve: applies the collision policy to the new rows, given as a table and by their row
            numbers in `learned`.
    """
    assert known.ids is not None
    assert learned.ids is not None
    at = match_ids(known.ids, learned.ids)
    new = np.flatnonzero(at < 0)
    added = resolve(take_rows(learned, new), new)
    codes, vectors = known.codes[at], known.vectors[at]  # of new rows: overwritten
    codes[new], vectors[new] = added.codes, added.vectors
    gone = np.setdiff1d(np.arange(len(known.codes)), at)
    return SidTable(
        codes,
        known.level_sizes,
        vectors,
        known.codebooks,
        learned.ids,
        dataclasses.replace(take_rows(known, gone), codebooks=()) if len(gone) else None,
    )


def take_rows(table: SidTable, rows: Ints) -> SidTable:
    """Some rows of a table."""
    return dataclasses.replace(
        table,
        codes=table.codes[rows],
        vectors=table.vectors[rows],
        ids=None if table.ids is None else table.ids.gather(rows),
        retired=None,
    )
