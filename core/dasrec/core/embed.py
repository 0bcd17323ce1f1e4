"""Stage `embed`: Corpus -> Embeddings, one frozen vector per item and per user.

The input of DAS's semantic models (UISM, das-method 1.1 and 4.1). Item vectors come from content;
user vectors from the profile and from training interactions, never from later ones.

Shape letters: I items, U users, D width.
"""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from dasrec.core.artifacts import Manifest, file_sha256, write_artifact
from dasrec.core.config import StageConfig
from dasrec.core.corpus import Corpus
from dasrec.core.embeddings import Embeddings, load_embeddings
from dasrec.core.encoders import (
    LsaConfig,
    TextEncoder,
    TextModelConfig,
    history_mean,
    lsa,
    pca,
    read_rows,
    sentence_transformers,
)
from dasrec.core.texts import item_texts, user_texts

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]


def _check_file(encoder: str, file: str | None) -> None:
    if encoder == "file" and file is None:
        raise ValueError("file is required with encoder 'file'")
    if encoder != "file" and file is not None:
        raise ValueError(f"file has no effect with encoder '{encoder}'; remove it")


class ItemEncoderConfig(StageConfig):
    """How items become vectors."""

    encoder: Literal["lsa", "sentence_transformers", "file"] = "lsa"
    """lsa: TF-IDF and truncated SVD, offline; sentence_transformers: a pretrained text model;
    file: vectors made elsewhere."""

    columns: tuple[str, ...] | None = None
    """Columns of the item text, in order; null takes the usual ones (title, brand, category,
    categories, description) that exist."""

    file: str | None = None
    """For `file`: a .npy in the data folder, row r = row r of the raw items file."""

    pca_dim: int | None = Field(default=None, ge=1)
    """Reduce to this width by a PCA of the item vectors (rows are normalised again)."""

    @model_validator(mode="after")
    def _check(self) -> "ItemEncoderConfig":
        _check_file(self.encoder, self.file)
        return self


class UserEncoderConfig(StageConfig):
    """How users become vectors."""

    encoder: Literal["lsa", "sentence_transformers", "file", "history_mean"] = "lsa"
    """As for items; history_mean: recency-weighted mean of the vectors of the user's training
    items, in the items' space (after their PCA)."""

    columns: tuple[str, ...] | None = None
    """Profile columns of the user text, in order; null takes the usual ones that exist."""

    max_history: int = Field(default=20, ge=0)
    """Training items named in the user text, most recent first."""

    half_life: float = Field(default=10.0, gt=0)
    """For `history_mean`: an item this many interactions older weighs half."""

    file: str | None = None
    """For `file`: a .npy in the data folder, row r = row r of the raw users file."""

    pca_dim: int | None = Field(default=None, ge=1)
    """Reduce to this width by PCA. It is fitted on the item vectors where both sides have the same
    encoder, so that they stay in one space, and on the user vectors for `file`."""

    @model_validator(mode="after")
    def _check(self) -> "UserEncoderConfig":
        _check_file(self.encoder, self.file)
        if self.encoder == "history_mean" and self.pca_dim is not None:
            raise ValueError(
                "pca_dim has no effect with encoder 'history_mean', whose width is that of the "
                "items; set items.pca_dim"
            )
        return self


class EmbedConfig(StageConfig):
    """Config of the stage `embed`."""

    items: ItemEncoderConfig = ItemEncoderConfig()
    """Item side."""

    users: UserEncoderConfig = UserEncoderConfig()
    """User side."""

    lsa: LsaConfig = LsaConfig()
    """For the encoder `lsa`, of both sides."""

    text_model: TextModelConfig = TextModelConfig()
    """For the encoder `sentence_transformers`, of both sides."""


def embed(
    config: EmbedConfig,
    corpus: Corpus,
    out: Path,
    *,
    data_dir: Path | None = None,
    seed: int = 0,
    replace: bool = False,
) -> Embeddings:
    """Write the Embeddings artifact of a corpus.

    Args:
        config: encoder of each side.
        corpus: the catalogue, the profiles and the training interactions.
        out: the artifact directory to create.
        data_dir: folder that `file` paths start from.
        seed: seeds the truncated SVD.
        replace: swap an artifact that is already there for the new one.

    Raises:
        ValueError: missing columns or files, vectors that do not fit the corpus, or values that
            are not finite. Nothing is written then.
    """
    inputs = embed_inputs(config, corpus, data_dir)
    items, users = _encode(config, corpus, data_dir, seed)
    log.info("embed: items %d x %d, users %d x %d", *items.shape, *users.shape)

    def payload(scratch: Path) -> None:
        np.save(scratch / "items.npy", items)
        np.save(scratch / "users.npy", users)

    metrics = {"item_dim": items.shape[1], "user_dim": users.shape[1]}
    write_artifact(
        out,
        "embeddings",
        config.as_json(),
        inputs,
        payload,
        seed=seed,
        metrics=metrics,
        replace=replace,
    )
    return load_embeddings(out, corpus)


def embed_inputs(
    config: EmbedConfig, corpus: Corpus, data_dir: Path | None = None
) -> dict[str, Manifest]:
    """Manifests of all that `embed` reads: the corpus and any vector files, by content.

    Raises:
        ValueError: a vector file that does not exist.
    """
    inputs = {"corpus": corpus.manifest}
    for side, encoder in (("items", config.items), ("users", config.users)):
        if encoder.file is not None:
            path = _path(encoder.file, data_dir, side)
            files = {path.name: file_sha256(path)}
            inputs[f"{side}_file"] = Manifest(kind="raw", config={}, inputs={}, files=files)
    return inputs


def _encode(
    config: EmbedConfig, corpus: Corpus, data_dir: Path | None, seed: int
) -> tuple[Floats, Floats]:
    """(I, D) item vectors and (U, D') user vectors."""
    users = config.users
    columns = config.items.columns

    @functools.cache  # both sides share one fitted or loaded encoder
    def text_encoder(name: str) -> TextEncoder:
        makers: dict[str, Callable[[], TextEncoder]] = {
            "lsa": lambda: lsa(
                config.lsa, item_texts(corpus, columns, labels=False).to_list(), seed
            ),
            "sentence_transformers": lambda: sentence_transformers(config.text_model),
        }
        return makers[name]()

    if config.items.file is not None:
        raw_items = read_rows(_path(config.items.file, data_dir, "items"), corpus.items, "items")
    else:
        labels = config.items.encoder != "lsa"
        texts = item_texts(corpus, columns, labels=labels)
        raw_items = text_encoder(config.items.encoder)(texts.to_list())
    item_vectors = raw_items
    if config.items.pca_dim is not None:
        item_vectors = pca(raw_items, raw_items, config.items.pca_dim, "items")

    if users.encoder == "history_mean":
        return item_vectors, history_mean(corpus, item_vectors, users.half_life)
    if users.file is not None:
        user_vectors = read_rows(_path(users.file, data_dir, "users"), corpus.users, "users")
    else:
        labels = users.encoder != "lsa"
        texts = user_texts(corpus, users.columns, max_history=users.max_history, labels=labels)
        user_vectors = text_encoder(users.encoder)(texts.to_list())
    if users.pca_dim is not None:
        one_space = users.encoder == config.items.encoder != "file"
        fit_on = raw_items if one_space else user_vectors
        user_vectors = pca(user_vectors, fit_on, users.pca_dim, "users")
    return item_vectors, user_vectors


def _path(file: str, data_dir: Path | None, side: str) -> Path:
    path = Path(file) if data_dir is None else data_dir / file
    if not path.is_file():
        raise ValueError(
            f"embed.{side}.file: {path}: no such file; paths start from the data folder"
        )
    return path
