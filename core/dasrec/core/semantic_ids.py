"""The SemanticIds artifact: the codes of every item and user, and what they stand for.

Shape letters: I items, U users, L levels, D code dimension.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dasrec.core.artifacts import Manifest, load_manifest

Codes = npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float32]


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

    @property
    def num_levels(self) -> int:
        """L."""
        return len(self.level_sizes)


@dataclass(frozen=True)
class SemanticIds:
    """Item SIDs and, where the tokenizer has a user side, user SIDs."""

    manifest: Manifest
    items: SidTable
    users: SidTable | None

    @property
    def fingerprint(self) -> str:
        """Checksum that models and tries built on these SIDs carry."""
        return self.manifest.fingerprint


def save_sids_payload(path: Path, items: SidTable, users: SidTable | None) -> None:
    """Write the payload of a SemanticIds artifact.

    Raises:
        ValueError: a code outside its level, or tables of unequal length.
    """
    for side, table in (("items", items), ("users", users)):
        if table is None:
            continue
        if table.codes.shape[1] != table.num_levels:
            raise ValueError(f"{side}: {table.codes.shape[1]} codes but {table.num_levels} levels")
        if len(table.codes) and (table.codes.max(0) >= np.array(table.level_sizes)).any():
            raise ValueError(f"{side}: a code outside its codebook of {table.level_sizes}")
        np.save(path / f"{side}.codes.npy", table.codes.astype(np.uint16))
        np.save(path / f"{side}.vectors.npy", table.vectors.astype(np.float32))
        for level, codebook in enumerate(table.codebooks):
            np.save(path / f"{side}.codebook{level}.npy", codebook.astype(np.float32))
        (path / f"{side}.json").write_text(
            json.dumps({"level_sizes": table.level_sizes, "num_codebooks": len(table.codebooks)})
        )


def load_sids(path: str | Path, corpus_manifest: Manifest | None = None) -> SemanticIds:
    """Open a SemanticIds artifact; refuse one built from another corpus if one is given."""
    path = Path(path)
    built_from = {} if corpus_manifest is None else {"corpus": corpus_manifest}
    manifest = load_manifest(path, "semantic_ids", built_from)
    users = _load_table(path, "users") if (path / "users.json").exists() else None
    return SemanticIds(manifest, _load_table(path, "items"), users)


def _load_table(path: Path, side: str) -> SidTable:
    sizes = json.loads((path / f"{side}.json").read_text())
    return SidTable(
        codes=np.load(path / f"{side}.codes.npy", mmap_mode="r"),
        level_sizes=tuple(sizes["level_sizes"]),
        vectors=np.load(path / f"{side}.vectors.npy", mmap_mode="r"),
        codebooks=tuple(
            np.load(path / f"{side}.codebook{level}.npy") for level in range(sizes["num_codebooks"])
        ),
    )
