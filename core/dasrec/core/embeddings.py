"""The Embeddings artifact: frozen vectors of items, in one or more modalities, and of users."""

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    """(I, D_item) float32, memory-mapped: the primary modality."""
    users: Floats
    """(U, D_user) float32, memory-mapped."""
    modality: str = "text"
    """Name of the primary modality."""
    more: Mapping[str, Floats] = field(default_factory=dict)
    """Further modalities of the items, name -> (I, D_m) float32, memory-mapped."""

    @property
    def modalities(self) -> Mapping[str, Floats]:
        """All modalities of the items, name -> (I, D_m), the primary one first."""
        return {self.modality: self.items, **self.more}

    @property
    def space(self) -> str:
        """Names the encoders: equal for an artifact and all those made with its fitted encoders.

        A tokenizer trained on one of them understands the others.
        """
        space: str = self.manifest.metrics.get("space", self.manifest.fingerprint)
        return space


def load_embeddings(path: str | Path, corpus: Corpus | None = None) -> Embeddings:
    """Open an Embeddings artifact; with `corpus`, refuse one built from another corpus."""
    built_from = {} if corpus is None else {"corpus": corpus.manifest}
    manifest = load_manifest(path, "embeddings", built_from)
    config = manifest.config  # artifacts from before modalities name none: defaults
    return Embeddings(
        manifest,
        _matrix(path, "items.npy"),
        _matrix(path, "users.npy"),
        config.get("modality", "text"),
        {name: _matrix(path, f"items.{name}.npy") for name in config.get("more", {})},
    )


def _matrix(path: str | Path, name: str) -> Floats:
    matrix: Floats = np.load(Path(path) / name, mmap_mode="r")
    return matrix
