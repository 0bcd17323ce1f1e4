"""The Descriptions artifact: texts that a language model wrote about items and users."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from dasrec.core.artifacts import Manifest, load_manifest
from dasrec.core.corpus import Corpus


@dataclass(frozen=True)
class Descriptions:
    """UISM's texts (das-method 1.1): what an LLM says of each item and user."""

    manifest: Manifest
    items: pl.DataFrame
    """Row i = item_idx i: `item_id`, `text` ("" where there was nothing to describe)."""
    users: pl.DataFrame
    """Row u = user_idx u: `user_id`, `text`."""


def load_descriptions(path: str | Path, corpus: Corpus | None = None) -> Descriptions:
    """Open a Descriptions artifact; with `corpus`, refuse one built from another corpus."""
    built_from = {} if corpus is None else {"corpus": corpus.manifest}
    manifest = load_manifest(path, "descriptions", built_from)
    return Descriptions(
        manifest,
        pl.read_parquet(Path(path) / "items.parquet"),
        pl.read_parquet(Path(path) / "users.parquet"),
    )
