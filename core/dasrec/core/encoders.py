"""The encoders of `embed`: texts, vector files and histories -> vectors.

Shape letters: N texts, I items, U users, D width.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from dasrec.core.config import StageConfig
from dasrec.core.corpus import Corpus

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
TextEncoder = Callable[[list[str]], Floats]
"""N texts -> (N, D) float32."""


class TextModelConfig(StageConfig):
    """A sentence-transformers model."""

    name: str = "BAAI/bge-m3"
    """Hub name or local path. The default is the encoder that DAS uses."""

    revision: str | None = None
    """Commit of the hub repository; pin it for repeatable runs."""

    max_length: int = Field(default=512, ge=1)
    """Longer texts are cut, in tokens."""

    batch_size: int = Field(default=32, ge=1)
    """Texts per forward pass."""

    device: str | None = None
    """Torch device; null lets the library choose."""


def sentence_transformers(config: TextModelConfig) -> TextEncoder:
    """A pretrained text model, frozen; rows of unit length.

    Raises:
        ValueError: the package is not installed.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError:
        raise ValueError(
            "embed: encoder 'sentence_transformers' needs a package that is not installed; "
            "pip install 'dasrec[text]', or choose the encoder 'lsa' or 'file'"
        ) from None
    model = SentenceTransformer(config.name, revision=config.revision, device=config.device)
    model.max_seq_length = config.max_length

    def encode(texts: list[str]) -> Floats:
        log.info("embed: %d texts through %s", len(texts), config.name)
        vectors = model.encode(
            texts,
            batch_size=config.batch_size,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.asarray(vectors, np.float32)

    return encode


def read_rows(path: Path, table: pl.DataFrame, side: str, section: str) -> Floats:
    """Rows of a .npy matrix in the order of a corpus table, by the table's `source_row`.

    Args:
        path: (raw rows, D) floats of any width, row r = row r of the raw items or users file.
        table: `corpus.items` or `corpus.users`.
        side: "items" or "users".
        section: the config section that names the file, for messages.

    Raises:
        ValueError: not such a matrix, a row that it lacks, or a needed value that is not finite.
    """
    where = f"embed.{section}.file: {path}"
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{where}: not a .npy matrix ({error})") from None
    if matrix.ndim != 2 or not np.issubdtype(matrix.dtype, np.floating):
        raise ValueError(
            f"{where}: expected a matrix of floats, one row per row of the raw {side} file, "
            f"got shape {matrix.shape} of {matrix.dtype}"
        )
    if "source_row" not in table.columns:
        raise ValueError(
            f"{where}: {side}.parquet of the corpus has no column 'source_row', which says where "
            "each row of the file belongs; make the corpus again with `prepare`"
        )
    source = table["source_row"].cast(pl.Int64).fill_null(-1).to_numpy()
    outside = np.flatnonzero((source < 0) | (source >= len(matrix)))
    if len(outside):
        name = table[f"{side[:-1]}_id"][int(outside[0])]
        raise ValueError(
            f"{where}: has rows 0..{len(matrix) - 1}, but {side[:-1]} {name!r} belongs to row "
            f"{source[outside[0]]} (-1: it is not in the raw {side} file); make the vectors from "
            "the raw file that the corpus was made from"
        )
    vectors = np.asarray(matrix[source], np.float32)
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise ValueError(
            f"{where}: row {source[broken[0]]} holds a value that is not finite "
            f"({len(broken)} such rows); make the vectors again"
        )
    return vectors


def history_mean(corpus: Corpus, items: Floats, half_life: float) -> Floats:
    """Sum over the training items of 2^(-n / half_life) x_n, n = 0 the most recent, unit length.

    Users without training items get the mean of all training interactions (of all items where
    there are none). Returns (U, D).
    """
    from scipy.sparse import csr_array

    values, starts = corpus.train_sequences
    age = np.repeat(starts[1:], np.diff(starts)) - 1 - np.arange(len(values))
    weights = np.exp2(-age / half_life).astype(np.float32)
    mixture = csr_array((weights, values, starts), shape=(corpus.num_users, len(items)))
    vectors = np.asarray(mixture @ items)
    vectors[np.diff(starts) == 0] = mean_interaction(corpus, items)
    return normalise(vectors)


def mean_interaction(corpus: Corpus, items: Floats) -> Floats:
    """(D,) sum over all training interactions (all items where there are none): what stands for a
    user without a history."""
    counts = corpus.train_item_count.astype(np.float32)
    return np.asarray(counts @ items if counts.any() else items.sum(axis=0))


def normalise(vectors: npt.NDArray[Any]) -> Floats:
    """Rows of unit length; zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)
