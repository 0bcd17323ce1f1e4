"""Encoder `lsa`: latent semantic analysis, fitted once and kept.

Shape letters: N texts, V words, D width.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dasrec.core.config import StageConfig
from dasrec.core.encoders import normalise
from dasrec.core.seeding import derive_seed

Floats = npt.NDArray[np.float32]


class LsaConfig(StageConfig):
    """Latent semantic analysis (Deerwester et al., 1990), fitted on the item texts."""

    dim: int = Field(default=128, ge=1)
    """Width D."""

    max_features: int = Field(default=50_000, ge=1)
    """Most frequent words and word pairs kept."""

    min_df: int = Field(default=2, ge=1)
    """Words in fewer items than this are dropped."""


@dataclass(frozen=True)
class Lsa:
    """A fitted space: TF-IDF of words and word pairs, projected, rows of unit length."""

    words: Sequence[str]
    """(V,) the vocabulary, by column."""
    idf: Floats
    """(V,) inverse document frequencies."""
    components: Floats
    """(D, V) right singular vectors."""

    def __call__(self, texts: list[str]) -> Floats:
        """(N, D) rows that depend on nothing but their own text; no known word: zeros."""
        vectorizer = _vectorizer(vocabulary=list(self.words))
        vectorizer.idf_ = self.idf
        return normalise(vectorizer.transform(texts) @ self.components.T)

    def save(self, folder: Path) -> None:
        """Write vocabulary.json, idf.npy and components.npy."""
        text = json.dumps(list(self.words), ensure_ascii=False)
        (folder / "vocabulary.json").write_text(text, encoding="utf-8")
        np.save(folder / "idf.npy", self.idf)
        np.save(folder / "components.npy", self.components)

    @classmethod
    def load(cls, folder: Path) -> "Lsa":
        """Read what `save` wrote."""
        words = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        return cls(words, np.load(folder / "idf.npy"), np.load(folder / "components.npy"))


def fit_lsa(config: LsaConfig, item_texts: list[str], seed: int, section: str) -> Lsa:
    """Vocabulary, document frequencies and components from the item texts.

    Raises:
        ValueError: the texts have no words, or too few for `config.dim`.
    """
    from sklearn.decomposition import TruncatedSVD

    vectorizer = _vectorizer(
        min_df=min(config.min_df, len(item_texts)), max_features=config.max_features
    )
    try:
        weights = vectorizer.fit_transform(item_texts)
    except ValueError as error:  # scikit-learn's word for an empty vocabulary
        raise ValueError(
            f"embed.{section}: no usable words in the item texts ({error}); "
            "choose other columns or lower embed.lsa.min_df"
        ) from None
    if config.dim > min(weights.shape):
        raise ValueError(
            f"embed.lsa.dim: {config.dim} is more than {weights.shape[0]} items and "
            f"{weights.shape[1]} words allow; choose a smaller one"
        )
    svd = TruncatedSVD(config.dim, n_iter=7, random_state=derive_seed(seed, "embed", "lsa"))
    svd.fit(weights)
    words = vectorizer.get_feature_names_out().tolist()
    return Lsa(words, np.asarray(vectorizer.idf_, np.float32), svd.components_.astype(np.float32))


def _vectorizer(**settings: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        ngram_range=(1, 2),
        stop_words="english",
        sublinear_tf=True,
        dtype=np.float32,
        **settings,
    )
