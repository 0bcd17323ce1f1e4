"""In a world where the SID decides, the SID arm must win, and shuffled SIDs must not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dasrec.core import SemanticIds
from dasrec.core.config import build_config
from dasrec.ranking import RankingConfig, train_ranker

CONFIG = {
    "epochs": 4,
    "batch_size": 512,
    "learning_rate": 3e-3,
    "model": {"embedding_dim": 8, "hidden_dims": [32]},
    "features": {"hash_size": 4096, "max_history": 30},
}


def gauc(tmp_path: Path, name: str, planted: Any, sids: SemanticIds | None) -> float:
    config = build_config(RankingConfig, CONFIG, "test")
    manifest = train_ranker(config, planted.corpus, sids, tmp_path / name)
    return float(manifest.metrics["test"]["all"]["gauc"])


def test_sids_beat_ids_and_shuffled_sids_do_not(
    tmp_path: Path, planted: Any, make_sids: Callable[..., SemanticIds]
) -> None:
    shuffled_codes = np.random.default_rng(1).permutation(planted.codes)
    shuffled = make_sids(planted.corpus, shuffled_codes, name="shuffled")
    ids = gauc(tmp_path, "ids", planted, None)
    das = gauc(tmp_path, "das", planted, planted.sids)
    control = gauc(tmp_path, "control", planted, shuffled)
    assert das > ids + 0.15
    assert das > 0.8
    assert control < ids + 0.05
