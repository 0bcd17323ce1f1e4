"""Two CPU processes against one: the same losses, the same validation, one artifact."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.two_processes import in_two_processes

from dasrec.core import Manifest, load_corpus, load_manifest, load_sids
from dasrec.core.config import build_config
from dasrec.ranking import RankingConfig, train_ranker

VALUES: dict[str, Any] = {
    "epochs": 3,
    "patience": 3,
    "batch_size": 61,  # shared unevenly, and the last batch is odd
    "learning_rate": 3e-3,
    # Dropout draws other numbers in two processes than in one.
    "model": {"embedding_dim": 4, "hidden_dims": [16], "dropout": 0.0},
    "features": {"hash_size": 256, "max_history": 10},
}


def train(folder: Path, corpus_path: Path, sids_path: Path) -> dict[str, Manifest]:
    corpus = load_corpus(corpus_path)
    sids = load_sids(sids_path, corpus.manifest)
    config = build_config(RankingConfig, VALUES, "test")
    din = build_config(RankingConfig, VALUES | {"model": {"backbone": "din"}}, "test")
    return {
        "dcnv2": train_ranker(config, corpus, sids, folder / "dcnv2"),
        "din": train_ranker(din, corpus, None, folder / "din"),
    }


def work(rank: int, folder: Path, corpus_path: Path, sids_path: Path) -> None:
    train(folder, corpus_path, sids_path)


def test_two_processes_train_what_one_trains(tmp_path: Path, small: Any) -> None:
    paths = small.path / "corpus", small.path / "sids"
    in_two_processes(work, tmp_path / "two", *paths)
    one = train(tmp_path / "one", *paths)["dcnv2"]
    two = load_manifest(tmp_path / "two" / "dcnv2", "ranking_model")
    assert two.metrics["best_epoch"] == one.metrics["best_epoch"]
    assert two.metrics["valid"] == pytest.approx(one.metrics["valid"], rel=1e-4)
    assert two.metrics["test"]["all"] == pytest.approx(one.metrics["test"]["all"], rel=1e-4)
    weights = [
        load_file(tmp_path / side / "dcnv2" / "model.safetensors") for side in ("one", "two")
    ]
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=1e-4)
    # Dice sees its own rows in each process; both end with one model all the same.
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["dcnv2", "din"]
