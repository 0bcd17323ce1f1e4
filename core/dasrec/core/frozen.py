"""The fitted encoders of `embed`: kept in the artifact, and taken from there for later items."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from dasrec.core.config import build_config
from dasrec.core.corpus import Corpus
from dasrec.core.embed_config import EmbedConfig
from dasrec.core.embeddings import Embeddings, load_embeddings
from dasrec.core.lsa import Lsa
from dasrec.core.projection import Projection

Floats = npt.NDArray[np.float32]
E = TypeVar("E", Lsa, Projection)

FOLDER = "fitted"
ITEM_IDS = "item_ids.parquet"

FREE = ("file", "device", "batch_size")
"""Config keys that may differ from those of the encoders' own run: they change no encoder."""


class FrozenEncoders:
    """Encoders by kind and section: fitted here, or taken from an earlier artifact unchanged."""

    def __init__(self, earlier: Path | None = None) -> None:
        """Start with no encoders, or with those of the artifact `earlier`."""
        self.earlier = earlier
        self.kept: dict[str, Lsa | Projection] = {}

    def take(self, kind: type[E], section: str, fit: Callable[[], E]) -> E:
        """The encoder of a section, by `fit` where there is no earlier artifact.

        Raises:
            ValueError: the earlier artifact keeps no such encoder.
        """
        name = f"{kind.__name__.lower()}/{section}"
        found = self.kept.get(name)
        if found is None and self.earlier is not None:
            folder = self.earlier / FOLDER / name
            if not folder.is_dir():
                raise ValueError(
                    f"{folder}: missing, so the encoder of embed.{section} is lost (older versions "
                    "did not keep it); make that artifact and its tokenizer again"
                )
            found = kind.load(folder)
        found = found or fit()
        assert isinstance(found, kind)
        self.kept[name] = found
        return found

    def earlier_rows(self, section: str, corpus: Corpus) -> Floats:
        """(I, D) the earlier artifact's vectors by `item_id`; zeros for items it does not have."""
        assert self.earlier is not None
        old = load_embeddings(self.earlier)
        name = section.removeprefix("more.")
        vectors = old.items if section == "items" else old.more[name]
        numbered = pl.read_parquet(self.earlier / FOLDER / ITEM_IDS).with_row_index("row")
        rows = corpus.items.select("item_id").join(
            numbered, on="item_id", how="left", maintain_order="left"
        )["row"]
        known = rows.is_not_null().to_numpy()
        result = np.zeros((len(rows), vectors.shape[1]), np.float32)
        result[known] = vectors[rows.drop_nulls().to_numpy()]
        return result

    def save(self, scratch: Path, corpus: Corpus, config: EmbedConfig) -> None:
        """Write all encoders into an artifact, and the ids of items that are looked up by id."""
        for name, encoder in self.kept.items():
            folder = scratch / FOLDER / name
            folder.mkdir(parents=True)
            encoder.save(folder)
        if any(one.encoder == "cooccurrence" for one in config.item_encoders.values()):
            (scratch / FOLDER).mkdir(exist_ok=True)
            corpus.items.select("item_id").write_parquet(scratch / FOLDER / ITEM_IDS)


def open_earlier(path: Path, config: EmbedConfig) -> Embeddings:
    """The artifact whose encoders are to be used again.

    Raises:
        FileNotFoundError: no such artifact.
        ValueError: it was made by another config.
    """
    earlier = load_embeddings(path)
    # Built again, so that options that came later count with their defaults.
    made_with = build_config(EmbedConfig, earlier.manifest.config, f"{path}: config")
    theirs, ours = _leaves(made_with.as_json()), _leaves(config.as_json())
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key) and key.rsplit(".", 1)[-1] not in FREE:
            raise ValueError(
                f"embed.{key}: {ours.get(key, 'absent')}, but the encoders in {path} were fitted "
                f"with {theirs.get(key, 'absent')}; new items need the same config"
            )
    return earlier


def _leaves(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of a nested config."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= _leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
