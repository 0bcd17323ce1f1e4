"""Encoder `images`: item pictures through a frozen CLIP model.

Shape letters: I items, N pictures, D width.
"""

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from dasrec.core.config import StageConfig
from dasrec.core.corpus import Corpus

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

BLOCK = 512
"""Pictures opened at a time."""


class ImagesConfig(StageConfig):
    """Pictures of the items and the model that reads them."""

    name: str = "clip-ViT-B-32"
    """Hub name or local path of a sentence-transformers model that takes images."""

    revision: str | None = None
    """Commit of the hub repository; pin it for repeatable runs."""

    column: str = "image"
    """Item column with the picture's path, or its URL, which stands for a file of the URL's last
    part; of a list, the first one."""

    folder: str = ""
    """Folder that the paths start from, inside the data folder."""

    batch_size: int = Field(default=32, ge=1)
    """Pictures per forward pass."""

    device: str | None = None
    """Torch device; null lets the library choose."""


def image_files(
    config: ImagesConfig, corpus: Corpus, data_dir: Path | None, where: str
) -> list[Path | None]:
    """The picture of every item; None for an item that has no value or whose file is missing.

    Raises:
        ValueError: no such column, one that is not text, or not a single picture.
    """
    table, name = corpus.items, config.column
    if name not in table.columns:
        raise ValueError(
            f"{where}: embed.images.column: no column '{name}' in items.parquet; "
            f"it has {', '.join(table.columns)}"
        )
    value = pl.col(name)
    if isinstance(table.schema[name], pl.List):
        value = value.list.first()
    values = table.select(value)[name]
    if values.dtype != pl.String:
        raise ValueError(
            f"{where}: embed.images.column: '{name}' holds {values.dtype}, expected paths (text)"
        )
    values = values.str.replace(r"^https?://(?:.*/)?([^/?#]*)(?:[?#].*)?$", "$1")
    base = (data_dir or Path()) / config.folder
    found = {text: base / text for text in values.unique() if text and (base / text).is_file()}
    files = [found.get(text) for text in values]
    if not found:
        raise ValueError(
            f"{where}: none of the {len(files)} items has a picture: column '{name}' (first "
            f"value: {values.drop_nulls().head(1).to_list()}) names no file under {base}; check "
            "embed.images.folder, which starts from the data folder"
        )
    return files


def images(config: ImagesConfig, files: list[Path | None]) -> Floats:
    """(I, D) vectors of unit length; items without a picture get the zero vector.

    Every file is read once, however many items show it.

    Raises:
        ValueError: a package is not installed, or a file is not a picture.
    """
    try:
        import PIL  # noqa: F401
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError as error:
        raise ValueError(
            f"embed: encoder 'images' needs the package {error.name}, which is not installed; "
            "pip install 'dasrec[images]', or choose the encoder 'file'"
        ) from None
    model = SentenceTransformer(config.name, revision=config.revision, device=config.device)
    distinct = sorted({file for file in files if file is not None})
    missing = files.count(None)
    log.info("embed: %d pictures through %s", len(distinct), config.name)
    if missing:
        log.warning("embed: %d of %d items without a picture: zero vectors", missing, len(files))
    blocks = [
        model.encode(
            [_open(file) for file in distinct[start : start + BLOCK]],
            batch_size=config.batch_size,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        for start in range(0, len(distinct), BLOCK)
    ]
    vectors = np.concatenate(blocks).astype(np.float32)
    row = {file: number for number, file in enumerate(distinct)}
    rows = np.array([-1 if file is None else row[file] for file in files])
    return np.asarray(np.where(rows[:, None] >= 0, vectors[rows], np.float32(0)))


def _open(file: Path) -> object:
    from PIL import Image

    try:
        with Image.open(file) as picture:
            return picture.convert("RGB")
    except OSError as error:
        raise ValueError(
            f"embed.images: {file}: not a readable picture ({error}); mend or remove the file"
        ) from None
