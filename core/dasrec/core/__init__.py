"""What every stage shares: configs, artifacts, the corpus and the tables they hold."""

from dasrec.core.artifacts import (
    Manifest,
    check_free,
    load_manifest,
    recipe_digest,
    verify_files,
    work_dir,
    write_artifact,
)
from dasrec.core.config import StageConfig, apply_overrides, build_config, read_yaml
from dasrec.core.corpus import SPLITS, Corpus, Impressions, Ragged, Split, load_corpus
from dasrec.core.download import DATASETS, download
from dasrec.core.embeddings import Embeddings, load_embeddings
from dasrec.core.prepare import PrepareConfig, describe_raw, prepare
from dasrec.core.readers import TableConfig
from dasrec.core.recommendations import (
    Recommendations,
    load_recommendations,
    write_recommendations,
)
from dasrec.core.seeding import derive_seed, generator, seed_everything
from dasrec.core.semantic_ids import SemanticIds, SidTable, load_sids, save_sids_payload
from dasrec.core.split import SplitConfig

__all__ = [
    "DATASETS",
    "SPLITS",
    "Corpus",
    "Embeddings",
    "Impressions",
    "Manifest",
    "PrepareConfig",
    "Ragged",
    "Recommendations",
    "SemanticIds",
    "SidTable",
    "Split",
    "SplitConfig",
    "StageConfig",
    "TableConfig",
    "apply_overrides",
    "build_config",
    "check_free",
    "derive_seed",
    "describe_raw",
    "download",
    "generator",
    "load_corpus",
    "load_embeddings",
    "load_manifest",
    "load_recommendations",
    "load_sids",
    "prepare",
    "read_yaml",
    "recipe_digest",
    "save_sids_payload",
    "seed_everything",
    "verify_files",
    "work_dir",
    "write_artifact",
    "write_recommendations",
]
