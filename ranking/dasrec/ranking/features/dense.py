"""Frozen vectors of users or items, from an embeddings artifact or a matrix."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from dasrec.core.artifacts import file_sha256
from dasrec.core.corpus import Corpus
from dasrec.core.embeddings import Embeddings, load_embeddings
from dasrec.ranking.features.fields import DenseField

Floats = npt.NDArray[np.float32]


def open_vectors(field: DenseField, corpus: Corpus) -> tuple[Floats, str]:
    """(rows, E) vectors by index of the user or item, and a digest of what they are.

    Raises:
        FileNotFoundError: nothing is at `field.path`.
        ValueError: vectors of another corpus or of another number of rows, or values that are no
            finite numbers.
    """
    where = f"ranking.features.fields.{field.name}"
    path = Path(field.path)
    if path.suffix == ".npy":
        if not path.is_file():
            raise FileNotFoundError(f"{where}: {path}: no such file")
        vectors, digest = _by_source_row(path, field, corpus, where), file_sha256(path)
    else:
        artifact = load_embeddings(path, corpus)
        vectors, digest = _of_artifact(artifact, field, where), artifact.manifest.fingerprint
    if not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise ValueError(
            f"{where}: {path}: the vector of {field.side} {row} holds NaN or infinite numbers; "
            "write zeros where there is no vector"
        )
    return vectors, digest


def _of_artifact(artifact: Embeddings, field: DenseField, where: str) -> Floats:
    if field.side == "user":
        return np.asarray(artifact.users, np.float32)
    name = field.modality or artifact.modality
    if name not in artifact.modalities:
        raise ValueError(
            f"{where}.modality: {field.path} has {', '.join(artifact.modalities)}, got {name}"
        )
    return np.asarray(artifact.modalities[name], np.float32)


def _by_source_row(path: Path, field: DenseField, corpus: Corpus, where: str) -> Floats:
    matrix = np.load(path, mmap_mode="r")
    table = corpus.users if field.side == "user" else corpus.items
    rows = table["source_row"].to_numpy() if "source_row" in table.columns else None
    if rows is None or (rows < 0).all():
        raise ValueError(
            f"{where}: {path} is in the order of a {field.side}s table, but the corpus was made "
            "without one; give an embeddings artifact"
        )
    if matrix.ndim != 2 or len(matrix) <= rows.max():
        raise ValueError(
            f"{where}: {path} has shape {matrix.shape}, but the {field.side}s table has more than "
            f"{rows.max()} rows; give one vector for each of its rows"
        )
    return np.asarray(np.where((rows >= 0)[:, None], matrix[np.maximum(rows, 0)], 0), np.float32)
