"""Stage: (AssignConfig, tokenizer, Corpus, Embeddings) -> SemanticIds.

Only the content side of the tokenizer is used: an item without any interaction gets a SID too.
Shape letters: I items, L levels, K codebook size, D code dimension.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator

from dasrec.core import (
    Corpus,
    Embeddings,
    SemanticIds,
    SidTable,
    StageConfig,
    check_free,
    load_manifest,
    load_sids,
    save_sids_payload,
    write_artifact,
)
from dasrec.tokenizer.collisions import number_groups, reassign_last
from dasrec.tokenizer.objective import Side
from dasrec.tokenizer.quantizer import Encoded
from dasrec.tokenizer.report import collision_rate, sid_report
from dasrec.tokenizer.train import item_matrix, load_tokenizer

Floats = npt.NDArray[np.float32]
Size = Annotated[int, Field(ge=1)]


class AssignConfig(StageConfig):
    """How SIDs are given out."""

    collisions: Literal["extra_level", "reassign_last", "cap", "share"] = "extra_level"
    """Items whose codes coincide: `extra_level` appends a code that numbers them (TIGER);
    `reassign_last` moves all but the most popular to the nearest free last codeword; `cap` moves
    what `cap` items per SID leave over (FORGE); `share` leaves them (for features of a ranking
    model). Users always share: a user SID is a feature, nothing is looked up by it."""
    cap: Size | None = None
    """For `cap`: items per SID at most (FORGE: 5)."""
    extra_level_size: Size = 1
    """Codes of the extra level at least; more where a group of colliding items is larger. What is
    left free is the room for items that come later."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.cap is not None) != (self.collisions == "cap"):
            raise ValueError(
                f"cap is needed with collisions 'cap' and has no effect otherwise, got cap "
                f"{self.cap} with collisions '{self.collisions}'"
            )
        return self


def assign(
    config: AssignConfig,
    tokenizer: str | Path,
    corpus: Corpus,
    embeddings: Embeddings,
    out: str | Path,
    *,
    seed: int = 0,
    replace: bool = False,
) -> SemanticIds:
    """Give every item and user its SID and write a SemanticIds artifact.

    Its manifest's metrics hold the SID report, with the collisions before the policy.

    Args:
        config: the collision policy.
        tokenizer: path of the tokenizer artifact.
        corpus: the corpus the tokenizer was trained on.
        embeddings: the embeddings the tokenizer was trained on.
        out: directory to create.
        seed: kept in the manifest; nothing here is random.
        replace: swap an artifact that is already there.

    Raises:
        FileExistsError: `out` exists and `replace` is false.
        ValueError: a tokenizer made from other inputs; no free code left under a prefix.
    """
    out = Path(out)
    check_free(out, replace)
    inputs = {"corpus": corpus.manifest, "embeddings": embeddings.manifest}
    manifest = load_manifest(tokenizer, "tokenizer", inputs)
    trained, sides = load_tokenizer(tokenizer)

    x_items = item_matrix(trained, embeddings)
    encoded = sides.items.quantize(x_items)
    learned = _table(sides.items, encoded)
    residual_ID = encoded.residual_ND.numpy()
    items = resolve_collisions(config, learned, residual_ID, corpus.train_item_count)
    users, errors = None, _errors("item", sides.items, x_items, encoded)
    if sides.users is not None:
        x_users = torch.from_numpy(np.array(embeddings.users, np.float32))
        encoded = sides.users.quantize(x_users)
        users = _table(sides.users, encoded)
        errors |= _errors("user", sides.users, x_users, encoded)
    metrics = sid_report(items, users, corpus, embeddings) | errors
    metrics["item/collision_rate_before"] = collision_rate(learned.codes)
    write_artifact(
        out,
        "semantic_ids",
        config.as_json(),
        inputs | {"tokenizer": manifest},
        lambda path: save_sids_payload(path, items, users),
        seed=seed,
        metrics=metrics,
        replace=replace,
    )
    return load_sids(out, corpus.manifest)


def _table(side: Side, encoded: Encoded) -> SidTable:
    """The table before any collision policy."""
    books = tuple(book.numpy().copy() for book in side.codebooks)
    codes = encoded.codes_NL.numpy().astype(np.uint16)
    return SidTable(codes, tuple(len(book) for book in books), encoded.z_ND.numpy(), books)


def _errors(name: str, side: Side, x_NX: torch.Tensor, encoded: Encoded) -> dict[str, float]:
    """What the codes lose: of the input, and of the encoding (relative to its variance)."""
    spread = (encoded.h_ND - encoded.h_ND.mean(0)).square().sum()
    lost = (encoded.h_ND - encoded.z_ND).square().sum()
    return {
        f"{name}/reconstruction_error": side.reconstruction_error(x_NX, encoded.z_ND),
        f"{name}/quantization_error": float(lost / spread.clamp_min(1e-12)),
    }


def resolve_collisions(
    config: AssignConfig,
    table: SidTable,
    residual_ID: Floats,
    popularity_I: npt.NDArray[np.int64],
) -> SidTable:
    """Apply `config.collisions` to item SIDs. z stays the sum of the learned codewords.

    Raises:
        ValueError: see `reassign_last`; or a group too large for uint16 codes.
    """
    codes_IL = table.codes.astype(np.int64)
    if config.collisions == "extra_level":
        rank_I = number_groups(codes_IL, popularity_I)
        size = max(config.extra_level_size, int(rank_I.max()) + 1)
        if size > 65_536:
            raise ValueError(
                f"assign: a group of at most 65536 items with one SID can be numbered, got {size}; "
                "train the tokenizer with larger levels"
            )
        codes = np.column_stack([codes_IL, rank_I]).astype(np.uint16)
        return SidTable(codes, (*table.level_sizes, size), table.vectors, table.codebooks)
    if config.collisions in ("reassign_last", "cap"):
        last_KD = table.codebooks[-1]
        moved_IL = reassign_last(codes_IL, residual_ID, last_KD, popularity_I, cap=config.cap or 1)
        vectors = table.vectors + last_KD[moved_IL[:, -1]] - last_KD[codes_IL[:, -1]]
        return SidTable(moved_IL.astype(np.uint16), table.level_sizes, vectors, table.codebooks)
    return table
