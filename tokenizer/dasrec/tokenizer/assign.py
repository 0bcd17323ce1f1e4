"""Stage: (AssignConfig, tokenizer, Corpus, Embeddings) -> SemanticIds.

Only the content side of the tokenizer is used: an item without any interaction gets a SID too.
A table may extend a published one, made from an earlier corpus: then no published SID moves.
Shape letters: N rows of a side, X input width, D code dimension.
"""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from dasrec.core import (
    Corpus,
    Embeddings,
    SemanticIds,
    SidTable,
    check_free,
    load_manifest,
    load_sids,
    save_sids_payload,
    write_artifact,
)
from dasrec.tokenizer.append import append_rows, check_extends, known_rows, match_ids
from dasrec.tokenizer.collisions import Ints
from dasrec.tokenizer.drift import drift, drift_sentence
from dasrec.tokenizer.moments import check_histories, encode_moments
from dasrec.tokenizer.objective import Side
from dasrec.tokenizer.policies import AssignConfig, resolve_collisions
from dasrec.tokenizer.quantizer import Encoded
from dasrec.tokenizer.report import sid_report
from dasrec.tokenizer.train import item_matrix, load_tokenizer

log = logging.getLogger(__name__)

Codes = npt.NDArray[np.uint16]


def assign(
    config: AssignConfig,
    tokenizer: str | Path,
    corpus: Corpus,
    embeddings: Embeddings,
    out: str | Path,
    *,
    published: str | Path | None = None,
    seed: int = 0,
    replace: bool = False,
) -> SemanticIds:
    """Give every item and user its SID and write a SemanticIds artifact.

    Its manifest's metrics hold the SID report, with the collisions before the policy; under
    `published` also the drift of the new rows.

    Args:
        config: the collision policy.
        tokenizer: path of the tokenizer artifact.
        corpus: the corpus the tokenizer was trained on; under `published` a later one.
        embeddings: the embeddings the tokenizer was trained on; under `published` those of
            `corpus`, made with the same fitted encoders.
        out: directory to create.
        published: a SemanticIds artifact to extend. Its rows, matched by `item_id` and `user_id`,
            keep codes and vectors byte for byte; the others get theirs from content.
        seed: kept in the manifest; nothing here is random.
        replace: swap an artifact that is already there.

    Raises:
        FileExistsError: `out` exists and `replace` is false.
        ValueError: a tokenizer made from other inputs; `user_moments` for user vectors that are not
            made from histories; no free code left under a prefix; a
            published table of another tokenizer, policy or embedding space, or without room.
    """
    out = Path(out)
    check_free(out, replace)
    if config.user_moments:
        check_histories(embeddings)
    inputs = {"corpus": corpus.manifest, "embeddings": embeddings.manifest}
    known: dict[str, SidTable] = {}
    lineage: tuple[str, ...] = ()
    if published is None:
        inputs["tokenizer"] = load_manifest(tokenizer, "tokenizer", inputs)
    else:
        earlier, inputs["tokenizer"] = load_sids(published), load_manifest(tokenizer, "tokenizer")
        check_extends(config, earlier, Path(tokenizer), embeddings, inputs)
        inputs["published"] = earlier.manifest
        known["item"] = known_rows(earlier.items, "items")
        if earlier.users is not None:
            known["user"] = known_rows(earlier.users, "users")
        lineage = (*earlier.lineage, earlier.fingerprint)

    trained, sides = load_tokenizer(tokenizer)
    x_users = torch.from_numpy(np.array(embeddings.users, np.float32))
    matrices = {"item": item_matrix(trained, embeddings), "user": x_users}
    policies = {"item": config, "user": AssignConfig(collisions="share")}
    tables: dict[str, SidTable] = {}
    learned: dict[str, Codes] = {}
    figures: dict[str, float] = {}
    for name, side in sides:
        ids, popularity_N = _rows(corpus, name)
        tables[name], learned[name], new = _give(
            policies[name], name, side, matrices[name], ids, popularity_N, known.get(name)
        )
        figures |= {f"{name}/{key}": value for key, value in new.items()}
    items, users = tables["item"], tables.get("user")
    user_side = dict(sides).get("user") if config.user_moments else None
    moments = None if user_side is None else encode_moments(user_side, corpus, embeddings)
    write_artifact(
        out,
        "semantic_ids",
        config.as_json(),
        inputs,
        lambda path: save_sids_payload(path, items, users, lineage, moments),
        seed=seed,
        metrics=sid_report(items, users, corpus, embeddings, before=learned["item"], extra=figures),
        replace=replace,
    )
    return load_sids(out, corpus.manifest)


def _rows(corpus: Corpus, side: str) -> tuple[pl.Series, Ints]:
    """External ids of a side's rows, and who comes first under a collision policy."""
    if side == "item":
        return corpus.items["item_id"].cast(pl.String), corpus.train_item_count
    return corpus.users["user_id"].cast(pl.String), np.zeros(corpus.num_users, np.int64)


def _give(
    config: AssignConfig,
    name: str,
    side: Side,
    x_NX: torch.Tensor,
    ids: pl.Series,
    popularity_N: Ints,
    known: SidTable | None,
) -> tuple[SidTable, Codes, dict[str, float]]:
    """The table of one side, the learned codes that no policy has moved, and figures; `known` rows
    keep what they have."""
    encoded = side.quantize(x_NX)
    residual_ND = encoded.residual_ND.numpy()
    books = tuple(book.numpy().copy() for book in side.codebooks)
    codes = encoded.codes_NL.numpy().astype(np.uint16)
    sizes = tuple(len(book) for book in books)
    learned = SidTable(codes, sizes, encoded.z_ND.numpy(), books, ids)
    figures = _errors(side, x_NX, encoded)
    if known is None:
        table = resolve_collisions(config, learned, residual_ND, popularity_N)
        return dataclasses.replace(table, ids=ids), codes, figures

    def resolve(part: SidTable, rows: Ints) -> SidTable:
        residual, popularity = residual_ND[rows], popularity_N[rows]
        return resolve_collisions(config, part, residual, popularity, published=known)

    table = append_rows(known, learned, resolve)
    assert known.ids is not None
    found = drift(encoded.h_ND.numpy(), learned.vectors, match_ids(known.ids, ids) < 0)
    log.info("assign: %s", drift_sentence(name, found))
    retired = 0 if table.retired is None else len(table.retired.codes)
    figures |= {f"drift_{key}": value for key, value in found.items()}
    return table, codes, figures | {"retired_rows": float(retired)}


def _errors(side: Side, x_NX: torch.Tensor, encoded: Encoded) -> dict[str, float]:
    """What the codes lose: of the input, and of the encoding (relative to its variance)."""
    spread = (encoded.h_ND - encoded.h_ND.mean(0)).square().sum()
    lost = (encoded.h_ND - encoded.z_ND).square().sum()
    return {
        "reconstruction_error": side.reconstruction_error(x_NX, encoded.z_ND),
        "quantization_error": float(lost / spread.clamp_min(1e-12)),
    }
