"""The SemanticIds artifact: the codes of every item and user, and what they stand for.

Once published, a SID never changes: a later version of the table adds rows, and rows that left
the catalogue are kept aside as retired, so that their SIDs are given to nobody else.

Shape letters: I items, U users, L levels, D code dimension.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from dasrec.core.artifacts import Manifest, load_manifest

Codes = npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float32]
LINEAGE = "lineage.json"
MOMENTS = "users.moments"


@dataclass(frozen=True)
class SidTable:
    """Semantic IDs of one side."""

    codes: Codes
    """(rows, L); the disambiguation level, if any, is the last of the L."""
    level_sizes: tuple[int, ...]
    """Codebook size K of each of the L levels, the disambiguation level included."""
    vectors: Floats
    """(rows, D) quantized embedding z."""
    codebooks: tuple[Floats, ...]
    """One (K, D) codebook per learned level (not for a disambiguation level)."""
    ids: pl.Series | None = None
    """(rows,) external ids (`item_id`, `user_id`), by which versions of a table are matched."""
    retired: "SidTable | None" = None
    """Published rows that the corpus no longer has; None where there are none. No codebooks."""

    @property
    def num_levels(self) -> int:
        """L."""
        return len(self.level_sizes)


@dataclass(frozen=True)
class UserMoments:
    """SIDs of users at every moment of their histories, numbered as in `dasrec.core.moments`.

    A model that learns from past impressions needs the SID that the user had then: today's was made
    from what the user did later, the label of the impression included.
    """

    codes: Codes
    """(S, L) the distinct SIDs; no two rows are equal."""
    vectors: Floats
    """(S, D) quantized embedding z of each."""
    row: npt.NDArray[np.int32]
    """(N + U,) row of each moment's SID."""


@dataclass(frozen=True)
class SemanticIds:
    """Item SIDs and, where the tokenizer has a user side, user SIDs."""

    manifest: Manifest
    items: SidTable
    users: SidTable | None
    lineage: tuple[str, ...] = ()
    """Fingerprints of the tables that this one extends, oldest first."""
    user_moments: UserMoments | None = None
    """User SIDs over time, where they were asked for."""

    @property
    def fingerprint(self) -> str:
        """Checksum that models and tries built on these SIDs carry."""
        return self.manifest.fingerprint

    @property
    def version(self) -> int:
        """1 for a table that extends none, one more with every extension."""
        return len(self.lineage) + 1

    def extends(self, fingerprint: str | None) -> bool:
        """Whether every SID of the table with this fingerprint is the same in this one."""
        return fingerprint == self.fingerprint or fingerprint in self.lineage

    def check_built_from(self, path: str | Path, manifest: Manifest) -> None:
        """Refuse a model that was trained with other semantic IDs.

        A model of an older version goes on working: published SIDs do not change.

        Args:
            path: of the model, for the message.
            manifest: of the model.

        Raises:
            ValueError: the model's semantic IDs are neither these nor a version they extend.
        """
        used = manifest.inputs.get("semantic_ids")
        if not self.extends(used):
            raise ValueError(
                f"{path}: was built from semantic_ids {used}, but semantic_ids "
                f"{self.fingerprint} (version {self.version}) were given, which do not extend "
                "them; give the SIDs it was trained with or a later version of them"
            )


def save_sids_payload(
    path: Path,
    items: SidTable,
    users: SidTable | None,
    lineage: tuple[str, ...] = (),
    user_moments: UserMoments | None = None,
) -> None:
    """Write the payload of a SemanticIds artifact.

    Raises:
        ValueError: a code outside its level, or tables of unequal length.
    """
    for side, table in (("items", items), ("users", users)):
        if table is not None:
            _save_table(path, side, table)
            if table.retired is not None:
                _save_table(path, f"{side}.retired", table.retired)
    if user_moments is not None:
        for name, values in vars(user_moments).items():
            np.save(path / f"{MOMENTS}.{name}.npy", values)
    (path / LINEAGE).write_text(json.dumps(lineage))


def load_sids(path: str | Path, corpus_manifest: Manifest | None = None) -> SemanticIds:
    """Open a SemanticIds artifact; refuse one built from another corpus if one is given."""
    path = Path(path)
    built_from = {} if corpus_manifest is None else {"corpus": corpus_manifest}
    manifest = load_manifest(path, "semantic_ids", built_from)
    items, users = _load_table(path, "items"), _load_table(path, "users")
    if items is None:
        raise ValueError(f"{path}: items.json is missing; make it again")
    # tables from before there were versions extend nothing
    lineage = json.loads((path / LINEAGE).read_text()) if (path / LINEAGE).exists() else ()
    return SemanticIds(manifest, items, users, tuple(lineage), _load_moments(path))


def _save_table(path: Path, side: str, table: SidTable) -> None:
    rows = len(table.codes)
    if table.codes.shape[1] != table.num_levels:
        raise ValueError(f"{side}: {table.codes.shape[1]} codes but {table.num_levels} levels")
    if rows and (table.codes.max(0) >= np.array(table.level_sizes)).any():
        raise ValueError(f"{side}: a code outside its codebook of {table.level_sizes}")
    if len(table.vectors) != rows:
        raise ValueError(f"{side}: {rows} codes but {len(table.vectors)} vectors")
    np.save(path / f"{side}.codes.npy", table.codes.astype(np.uint16))
    np.save(path / f"{side}.vectors.npy", table.vectors.astype(np.float32))
    for level, codebook in enumerate(table.codebooks):
        np.save(path / f"{side}.codebook{level}.npy", codebook.astype(np.float32))
    if table.ids is not None:
        if len(table.ids) != rows or table.ids.n_unique() != rows:
            raise ValueError(
                f"{side}: expected {rows} distinct ids, got {len(table.ids)} of which "
                f"{table.ids.n_unique()} are distinct"
            )
        table.ids.rename("id").to_frame().write_parquet(path / f"{side}.ids.parquet")
    (path / f"{side}.json").write_text(
        json.dumps({"level_sizes": table.level_sizes, "num_codebooks": len(table.codebooks)})
    )


def _load_moments(path: Path) -> UserMoments | None:
    if not (path / f"{MOMENTS}.row.npy").exists():
        return None
    names = ("codes", "vectors", "row")
    return UserMoments(*(np.load(path / f"{MOMENTS}.{name}.npy", mmap_mode="r") for name in names))


def _load_table(path: Path, side: str) -> SidTable | None:
    """The table of a side; None if the artifact has no such side."""
    if not (path / f"{side}.json").exists():
        return None
    sizes = json.loads((path / f"{side}.json").read_text())
    ids = path / f"{side}.ids.parquet"
    return SidTable(
        codes=np.load(path / f"{side}.codes.npy", mmap_mode="r"),
        level_sizes=tuple(sizes["level_sizes"]),
        vectors=np.load(path / f"{side}.vectors.npy", mmap_mode="r"),
        codebooks=tuple(
            np.load(path / f"{side}.codebook{level}.npy") for level in range(sizes["num_codebooks"])
        ),
        ids=pl.read_parquet(ids)["id"] if ids.exists() else None,
        retired=_load_table(path, f"{side}.retired"),
    )
