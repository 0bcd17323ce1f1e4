"""Config of the stage `embed`."""

import re
from typing import Literal

from pydantic import Field, model_validator

from dasrec.core.config import StageConfig
from dasrec.core.cooccurrence import CooccurrenceConfig
from dasrec.core.encoders import TextModelConfig
from dasrec.core.images import ImagesConfig
from dasrec.core.lsa import LsaConfig

TEXT_ENCODERS = ("lsa", "sentence_transformers")


def _check_file(encoder: str, file: str | None) -> None:
    if encoder == "file" and file is None:
        raise ValueError("file is required with encoder 'file'")
    if encoder != "file" and file is not None:
        raise ValueError(f"file has no effect with encoder '{encoder}'; remove it")


def _check_source(encoder: str, source: str, columns: tuple[str, ...] | None) -> None:
    if source == "descriptions" and encoder not in TEXT_ENCODERS:
        raise ValueError(f"source has no effect with encoder '{encoder}'; remove it")
    if source == "descriptions" and columns is not None:
        raise ValueError(
            "columns has no effect with source 'descriptions'; set those of describe.prompts"
        )


class ItemEncoderConfig(StageConfig):
    """How items become vectors."""

    encoder: Literal["lsa", "sentence_transformers", "images", "cooccurrence", "file"] = "lsa"
    """lsa: TF-IDF and truncated SVD, offline; sentence_transformers: a pretrained text model;
    images: a pretrained CLIP model; cooccurrence: who is clicked near whom in the training
    interactions; file: vectors made elsewhere."""

    source: Literal["columns", "descriptions"] = "columns"
    """What the text encoders read: the item's columns, or what a language model wrote about it
    (stage `describe`)."""

    columns: tuple[str, ...] | None = None
    """Columns of the item text, in order; null takes the usual ones (title, brand, category,
    categories, description) that exist."""

    file: str | None = None
    """For `file`: a .npy in the data folder, row r = row r of the raw items file."""

    pca_dim: int | None = Field(default=None, ge=1)
    """Reduce to this width by a PCA of the item vectors (rows are normalised again; zero rows,
    which say that nothing is known, are left out and stay zero)."""

    @model_validator(mode="after")
    def _check(self) -> "ItemEncoderConfig":
        _check_file(self.encoder, self.file)
        _check_source(self.encoder, self.source, self.columns)
        return self


class UserEncoderConfig(StageConfig):
    """How users become vectors."""

    encoder: Literal["lsa", "sentence_transformers", "file", "history_mean"] = "lsa"
    """As for items; history_mean: recency-weighted mean of the vectors of the user's training
    items, in the items' space (after their PCA)."""

    source: Literal["columns", "descriptions"] = "columns"
    """What the text encoders read: profile and history, or what a language model wrote about
    them (stage `describe`)."""

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
        _check_source(self.encoder, self.source, self.columns)
        if self.encoder == "history_mean" and self.pca_dim is not None:
            raise ValueError(
                "pca_dim has no effect with encoder 'history_mean', whose width is that of the "
                "items; set items.pca_dim"
            )
        return self


class EmbedConfig(StageConfig):
    """Config of the stage `embed`."""

    items: ItemEncoderConfig = ItemEncoderConfig()
    """Item side: the primary modality, which the user side goes with."""

    modality: str = "text"
    """Name of the primary modality."""

    more: dict[str, ItemEncoderConfig] = Field(default_factory=dict)
    """Further modalities of the items, by name (a-z, 0-9, _), for tokenizers that take several."""

    users: UserEncoderConfig = UserEncoderConfig()
    """User side."""

    lsa: LsaConfig = LsaConfig()
    """For the encoder `lsa`, of both sides."""

    text_model: TextModelConfig = TextModelConfig()
    """For the encoder `sentence_transformers`, of both sides."""

    images: ImagesConfig = ImagesConfig()
    """For the encoder `images`."""

    cooccurrence: CooccurrenceConfig = CooccurrenceConfig()
    """For the encoder `cooccurrence`."""

    @model_validator(mode="after")
    def _names(self) -> "EmbedConfig":
        for key, name in (("modality", self.modality), *(("more", name) for name in self.more)):
            if not re.fullmatch(r"[a-z0-9_]+", name):
                raise ValueError(f"{key}: '{name}': use lower-case letters, digits and _")
        if self.modality in self.more:
            raise ValueError(
                f"more: '{self.modality}' is the name of the primary modality; "
                "choose another, or set modality"
            )
        return self

    @property
    def item_encoders(self) -> dict[str, ItemEncoderConfig]:
        """Section name ("items", "more.NAME") -> encoder, the primary one first."""
        return {"items": self.items, **{f"more.{name}": one for name, one in self.more.items()}}

    @property
    def reads_descriptions(self) -> bool:
        """Whether any encoder reads the artifact of the stage `describe`."""
        sides = [one.source for one in self.item_encoders.values()]
        return "descriptions" in (*sides, self.users.source)

    @property
    def reads_files(self) -> bool:
        """Whether any encoder reads files of the data folder."""
        names = [one.encoder for one in self.item_encoders.values()]
        return "images" in names or "file" in (*names, self.users.encoder)
