"""Stage `embed`: Corpus -> Embeddings, frozen vectors of the items and the users.

The input of DAS's semantic models (UISM, das-method 1.1 and 4.1). Item vectors come from content,
or from training interactions; user vectors from the profile and from training interactions, never
from later ones.

Shape letters: I items, U users, D width.
"""

import logging
from pathlib import Path

import numpy as np

from dasrec.core.artifacts import Manifest, check_free, file_sha256, write_artifact
from dasrec.core.corpus import Corpus
from dasrec.core.descriptions import Descriptions
from dasrec.core.embed_config import EmbedConfig, ItemEncoderConfig, UserEncoderConfig
from dasrec.core.embeddings import Embeddings, load_embeddings
from dasrec.core.encoding import Encoding, vector_file
from dasrec.core.frozen import FrozenEncoders, open_earlier
from dasrec.core.images import image_files

__all__ = ["EmbedConfig", "embed", "embed_inputs"]

log = logging.getLogger(__name__)


def embed(
    config: EmbedConfig,
    corpus: Corpus,
    out: Path,
    *,
    data_dir: Path | None = None,
    descriptions: Descriptions | None = None,
    fitted_on: Path | None = None,
    seed: int = 0,
    replace: bool = False,
) -> Embeddings:
    """Write the Embeddings artifact of a corpus.

    With `fitted_on`, nothing is fitted: the words, components and axes of that artifact are used
    unchanged, so that items it did not have get vectors in its space. An item of the same text
    keeps its vector, byte for byte, in `lsa`. Collaborative vectors are kept by `item_id`; items
    that are new have none (zeros).

    Args:
        config: encoder of each side and modality.
        corpus: the catalogue, the profiles and the training interactions.
        out: the artifact directory to create.
        data_dir: folder that vector files and pictures are in.
        descriptions: the texts of `source: descriptions`.
        fitted_on: an Embeddings artifact made with the same config, of an earlier catalogue.
        seed: seeds the truncated SVDs.
        replace: swap an artifact that is already there for the new one.

    Raises:
        ValueError: missing columns or files, vectors that do not fit the corpus, or values that
            are not finite. Nothing is written then.
    """
    check_free(out, replace)
    inputs = embed_inputs(config, corpus, data_dir, fitted_on, descriptions)
    frozen = FrozenEncoders(fitted_on)
    items, users = Encoding(config, corpus, data_dir, seed, frozen, descriptions).encode()
    names = {"items": "items.npy"} | {f"more.{name}": f"items.{name}.npy" for name in config.more}
    shapes = [f"{section} {len(one)} x {one.shape[1]}" for section, one in items.items()]
    log.info("embed: %s, users %d x %d", ", ".join(shapes), *users.shape)

    def payload(scratch: Path) -> None:
        for section, vectors in items.items():
            np.save(scratch / names[section], vectors)
        np.save(scratch / "users.npy", users)
        frozen.save(scratch, corpus, config)

    metrics: dict[str, object] = {"item_dim": items["items"].shape[1], "user_dim": users.shape[1]}
    metrics |= {f"{name}_dim": items[f"more.{name}"].shape[1] for name in config.more}
    if fitted_on is not None:
        metrics["space"] = load_embeddings(fitted_on).space
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
    config: EmbedConfig,
    corpus: Corpus,
    data_dir: Path | None = None,
    fitted_on: Path | None = None,
    descriptions: Descriptions | None = None,
) -> dict[str, Manifest]:
    """Manifests of all that `embed` reads, by name.

    The corpus, the descriptions, vector files and pictures by content, and the artifact that the
    encoders come from.

    Raises:
        FileNotFoundError: no artifact at `fitted_on`.
        ValueError: no descriptions where the config reads them, a vector file that does not exist,
            no item with a picture, or encoders that were fitted with another config.
    """
    inputs = {"corpus": corpus.manifest}
    if config.reads_descriptions:
        if descriptions is None:
            raise ValueError(
                "embed: source 'descriptions' needs the artifact of the stage `describe`; run "
                "that first, or set source to 'columns'"
            )
        if descriptions.manifest.inputs["corpus"] != corpus.manifest.fingerprint:
            raise ValueError(
                "embed: the descriptions are of another corpus; run `describe` on this one"
            )
        inputs["descriptions"] = descriptions.manifest
    if fitted_on is not None:
        inputs["fitted_on"] = open_earlier(fitted_on, config).manifest
    encoders: dict[str, ItemEncoderConfig | UserEncoderConfig] = {
        **config.item_encoders,
        "users": config.users,
    }
    for section, encoder in encoders.items():
        if encoder.file is not None:
            path = vector_file(encoder.file, data_dir, section)
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
