"""The Embeddings artifact: one frozen semantic vector per item and per user."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dasrec.core.artifacts import Manifest, load_manifest
from dasrec.core.corpus import Corpus

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Embeddings:
    """UISM's input (das-method 1.1): frozen text or multimodal embeddings."""

    manifest: Manifest
    items: Floats
    """(I, D_item) float32, memory-mapped."""
    users: Floats
    """(U, D_user) float32, memory-mapped."""


def load_embeddings(path: str | Path, corpus: Corpus | None = None) -> Embeddings:
    """Open an Embeddings artifact; with `corpus`, refuse one built from another corpus."""
    built_from = {} if corpus is None else {"corpus": corpus.manifest}
    manifest = load_manifest(path, "embeddings", built_from)
    return Embeddings(
        manifest,
        np.load(Path(path) / "items.npy", mmap_mode="r"),
        np.load(Path(path) / "users.npy", mmap_mode="r"),
    )
