"""Stage `embed`: Corpus -> Embeddings, frozen vectors of the items and the users.

The input of DAS's semantic models (UISM, das-method 1.1 and 4.1). Item vectors come from content,
or from training interactions; user vectors from the profile and from training interactions, never
from later ones.

Shape letters: I items, U users, D width.
"""

import functools
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dasrec.core.artifacts import Manifest, file_sha256, write_artifact
from dasrec.core.cooccurrence import cooccurrence
from dasrec.core.corpus import Corpus
from dasrec.core.embed_config import EmbedConfig, ItemEncoderConfig, UserEncoderConfig
from dasrec.core.embeddings import Embeddings, load_embeddings
from dasrec.core.encoders import (
    TextEncoder,
    history_mean,
    lsa,
    pca,
    read_rows,
    sentence_transformers,
)
from dasrec.core.images import image_files, images
from dasrec.core.texts import item_texts, user_texts

__all__ = ["EmbedConfig", "embed", "embed_inputs"]

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]


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
        config: encoder of each side and modality.
        corpus: the catalogue, the profiles and the training interactions.
        out: the artifact directory to create.
        data_dir: folder that vector files and pictures are in.
        seed: seeds the truncated SVDs.
        replace: swap an artifact that is already there for the new one.

    Raises:
        ValueError: missing columns or files, vectors that do not fit the corpus, or values that
            are not finite. Nothing is written then.
    """
    inputs = embed_inputs(config, corpus, data_dir)
    items, users = _Encoding(config, corpus, data_dir, seed).encode()
    names = {"items": "items.npy"} | {f"more.{name}": f"items.{name}.npy" for name in config.more}
    shapes = [f"{section} {len(one)} x {one.shape[1]}" for section, one in items.items()]
    log.info("embed: %s, users %d x %d", ", ".join(shapes), *users.shape)

    def payload(scratch: Path) -> None:
        for section, vectors in items.items():
            np.save(scratch / names[section], vectors)
        np.save(scratch / "users.npy", users)

    metrics = {"item_dim": items["items"].shape[1], "user_dim": users.shape[1]}
    metrics |= {f"{name}_dim": items[f"more.{name}"].shape[1] for name in config.more}
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
    """Manifests of all that `embed` reads: the corpus, vector files and pictures, by content.

    Raises:
        ValueError: a vector file that does not exist, or no item with a picture.
    """
    inputs = {"corpus": corpus.manifest}
    encoders: dict[str, ItemEncoderConfig | UserEncoderConfig] = {
        **config.item_encoders,
        "users": config.users,
    }
    for section, encoder in encoders.items():
        if encoder.file is not None:
            path = _path(encoder.file, data_dir, section)
            inputs[f"{section}_file"] = _raw({path.name: path})
        if encoder.encoder == "images":
            found = image_files(config.images, corpus, data_dir, f"embed.{section}")
            base = data_dir or Path()
            names = {path.relative_to(base).as_posix(): path for path in found if path}
            inputs[f"{section}_images"] = _raw(names)
    return inputs


def _raw(files: dict[str, Path]) -> Manifest:
    digests = {name: file_sha256(path) for name, path in files.items()}
    return Manifest(kind="raw", config={}, inputs={}, files=digests)


class _Encoding:
    """One call of `embed`: the encoders that its sections share."""

    def __init__(
        self, config: EmbedConfig, corpus: Corpus, data_dir: Path | None, seed: int
    ) -> None:
        self.config, self.corpus, self.data_dir, self.seed = config, corpus, data_dir, seed
        # fitted or loaded once, however many sections use it
        self._lsa = functools.cache(self._fit_lsa)
        self._text_model = functools.cache(lambda: sentence_transformers(config.text_model))

    def encode(self) -> tuple[dict[str, Floats], Floats]:
        """(I, D) item vectors of every section, and (U, D') user vectors."""
        raw = {
            section: self._items(section, encoder)
            for section, encoder in self.config.item_encoders.items()
        }
        items = {
            section: raw[section]
            if encoder.pca_dim is None
            else pca(raw[section], raw[section], encoder.pca_dim, section)
            for section, encoder in self.config.item_encoders.items()
        }
        return items, self._users(raw["items"], items["items"])

    def _items(self, section: str, encoder: ItemEncoderConfig) -> Floats:
        config, corpus = self.config, self.corpus

        def from_texts() -> Floats:
            texts = item_texts(corpus, encoder.columns, labels=encoder.encoder != "lsa")
            return self._text_encoder(encoder.encoder, encoder.columns)(texts.to_list())

        def from_images() -> Floats:
            files = image_files(config.images, corpus, self.data_dir, f"embed.{section}")
            return images(config.images, files)

        def from_interactions() -> Floats:
            return cooccurrence(config.cooccurrence, corpus, self.seed, f"embed.{section}")

        def from_file() -> Floats:
            path = _path(str(encoder.file), self.data_dir, section)
            return read_rows(path, corpus.items, "items", section)

        makers: dict[str, Callable[[], Floats]] = {
            "lsa": from_texts,
            "sentence_transformers": from_texts,
            "images": from_images,
            "cooccurrence": from_interactions,
            "file": from_file,
        }
        return makers[encoder.encoder]()

    def _users(self, raw_items: Floats, items: Floats) -> Floats:
        """(U, D) from the item vectors before and after their PCA, or from texts or a file."""
        users, corpus = self.config.users, self.corpus
        if users.encoder == "history_mean":
            return history_mean(corpus, items, users.half_life)
        if users.file is not None:
            path = _path(users.file, self.data_dir, "users")
            vectors = read_rows(path, corpus.users, "users", "users")
        else:
            labels = users.encoder != "lsa"
            texts = user_texts(corpus, users.columns, max_history=users.max_history, labels=labels)
            encoder = self._text_encoder(users.encoder, self.config.items.columns)
            vectors = encoder(texts.to_list())
        if users.pca_dim is None:
            return vectors
        one_space = users.encoder == self.config.items.encoder != "file"
        return pca(vectors, raw_items if one_space else vectors, users.pca_dim, "users")

    def _text_encoder(self, name: str, columns: tuple[str, ...] | None) -> TextEncoder:
        return self._lsa(columns) if name == "lsa" else self._text_model()

    def _fit_lsa(self, columns: tuple[str, ...] | None) -> TextEncoder:
        texts = item_texts(self.corpus, columns, labels=False)
        return lsa(self.config.lsa, texts.to_list(), self.seed)


def _path(file: str, data_dir: Path | None, section: str) -> Path:
    path = Path(file) if data_dir is None else data_dir / file
    if not path.is_file():
        raise ValueError(
            f"embed.{section}.file: {path}: no such file; paths start from the data folder"
        )
    return path
