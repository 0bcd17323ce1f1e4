"""The work of `embed`: every section of its config to vectors.

Shape letters: I items, U users, D width.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dasrec.core.cooccurrence import cooccurrence
from dasrec.core.corpus import Corpus
from dasrec.core.descriptions import Descriptions
from dasrec.core.embed_config import EmbedConfig, ItemEncoderConfig
from dasrec.core.encoders import TextEncoder, history_mean, read_rows, sentence_transformers
from dasrec.core.frozen import FrozenEncoders
from dasrec.core.images import image_files, images
from dasrec.core.lsa import Lsa, fit_lsa
from dasrec.core.projection import Projection, fit_pca
from dasrec.core.texts import item_texts, user_texts

Floats = npt.NDArray[np.float32]


class Encoding:
    """One call of `embed`: the encoders that its sections share."""

    def __init__(
        self,
        config: EmbedConfig,
        corpus: Corpus,
        data_dir: Path | None,
        seed: int,
        frozen: FrozenEncoders,
        descriptions: Descriptions | None,
    ) -> None:
        self.config, self.corpus, self.data_dir, self.seed = config, corpus, data_dir, seed
        self.frozen, self.descriptions = frozen, descriptions
        # loaded once, however many sections use it
        self._text_model = functools.cache(lambda: sentence_transformers(config.text_model))

    def encode(self) -> tuple[dict[str, Floats], Floats]:
        """(I, D) item vectors of every section, and (U, D') user vectors."""
        raw, items = {}, {}
        for section, encoder in self.config.item_encoders.items():
            if encoder.encoder == "cooccurrence" and self.frozen.earlier is not None:
                raw[section] = items[section] = self.frozen.earlier_rows(section, self.corpus)
                continue
            raw[section] = items[section] = self._items(section, encoder)
            if encoder.pca_dim is not None:
                items[section] = self._pca(raw[section], raw[section], encoder.pca_dim, section)
        return items, self._users(raw["items"], items["items"])

    def _items(self, section: str, encoder: ItemEncoderConfig) -> Floats:
        config, corpus = self.config, self.corpus

        def from_texts() -> Floats:
            texts = self._item_texts(section, labels=encoder.encoder != "lsa")
            return self._text_encoder(encoder.encoder, section)(texts)

        def from_images() -> Floats:
            files = image_files(config.images, corpus, self.data_dir, f"embed.{section}")
            return images(config.images, files)

        def from_interactions() -> Floats:
            return cooccurrence(config.cooccurrence, corpus, self.seed, f"embed.{section}")

        def from_file() -> Floats:
            path = vector_file(str(encoder.file), self.data_dir, section)
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
            path = vector_file(users.file, self.data_dir, "users")
            vectors = read_rows(path, corpus.users, "users", "users")
        else:
            # the items' words: both sides in one space
            vectors = self._text_encoder(users.encoder, "items")(self._user_texts())
        if users.pca_dim is None:
            return vectors
        one_space = users.encoder == self.config.items.encoder != "file"
        return self._pca(vectors, raw_items if one_space else vectors, users.pca_dim, "users")

    def _item_texts(self, section: str, *, labels: bool) -> list[str]:
        """(I,) what the text encoder of a section reads."""
        encoder = self.config.item_encoders[section]
        if encoder.source == "descriptions":
            assert self.descriptions is not None
            return self.descriptions.items["text"].to_list()
        where = f"embed.{section}.columns"
        return item_texts(self.corpus, encoder.columns, labels=labels, section=where).to_list()

    def _user_texts(self) -> list[str]:
        """(U,) what the text encoder of the users reads."""
        users = self.config.users
        if users.source == "descriptions":
            assert self.descriptions is not None
            return self.descriptions.users["text"].to_list()
        return user_texts(
            self.corpus,
            users.columns,
            max_history=users.max_history,
            labels=users.encoder != "lsa",
        ).to_list()

    def _text_encoder(self, name: str, section: str) -> TextEncoder:
        if name == "sentence_transformers":
            return self._text_model()

        def fit() -> Lsa:
            texts = self._item_texts(section, labels=False)
            return fit_lsa(self.config.lsa, texts, self.seed, section)

        return self.frozen.take(Lsa, section, fit)

    def _pca(self, vectors: Floats, fit_on: Floats, dim: int, section: str) -> Floats:
        return self.frozen.take(Projection, section, lambda: fit_pca(fit_on, dim, section))(vectors)


def vector_file(file: str, data_dir: Path | None, section: str) -> Path:
    """The path of a config's `file`, which must exist."""
    path = Path(file) if data_dir is None else data_dir / file
    if not path.is_file():
        raise ValueError(
            f"embed.{section}.file: {path}: no such file; paths start from the data folder"
        )
    return path
