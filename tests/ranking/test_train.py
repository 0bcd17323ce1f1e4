"""The training stage: artifact, provenance, resume, and scores that survive a round trip."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dasrec.core.training
from dasrec.core import load_manifest
from dasrec.core.config import build_config
from dasrec.core.corpus import SPLITS
from dasrec.eval.ctr_metrics import ctr_report
from dasrec.ranking import RankingConfig, load_ranker, train_ranker
from dasrec.ranking.calibration import fit_calibration
from dasrec.ranking.rows import impression_rows

VALUES = {
    "epochs": 3,
    "patience": 3,
    "batch_size": 128,
    "model": {"embedding_dim": 4, "hidden_dims": [16]},
    "features": {"hash_size": 256, "max_history": 10},
}
CONFIG = build_config(RankingConfig, VALUES, "test")


def test_scores_survive_saving_and_do_not_depend_on_the_batch(tmp_path: Path, small: Any) -> None:
    manifest = train_ranker(CONFIG, small.corpus, small.sids, tmp_path / "ranker")
    ranker = load_ranker(tmp_path / "ranker", small.corpus, small.sids)
    impressions = small.corpus.impressions
    rows = np.flatnonzero(impressions.split == SPLITS["test"])
    user, item, end = (
        np.asarray(c)[rows]
        for c in (impressions.user_idx, impressions.item_idx, impressions.history_end)
    )
    logits = ranker.score(user, item, end)
    report = ctr_report(user, impressions.label[rows], logits)
    for name, value in manifest.metrics["test"]["all"].items():
        assert value == pytest.approx(report[name], abs=1e-6), name
    order = np.random.default_rng(0).permutation(len(rows))
    mixed = ranker.score(user[order], item[order], end[order], batch_size=7)
    np.testing.assert_allclose(mixed, logits[order], atol=1e-5)
    stored = json.loads((tmp_path / "ranker" / "metrics.json").read_text())
    assert stored["test"] == manifest.metrics["test"]
    assert {"all", "cold", "warm"} == set(stored["test"])
    assert not (tmp_path / ".ranker.work").exists()


def test_probabilities_are_calibrated_on_validation_rows(tmp_path: Path, small: Any) -> None:
    manifest = train_ranker(CONFIG, small.corpus, None, tmp_path / "ranker")
    ranker = load_ranker(tmp_path / "ranker", small.corpus, None)
    rows = impression_rows(small.corpus, "valid")
    logits = ranker.score_rows(rows)
    expected = fit_calibration("platt", rows.label, logits)
    assert ranker.calibration == expected
    np.testing.assert_allclose(ranker.probability(logits), expected(logits))
    assert ranker.probability(logits).mean() == pytest.approx(rows.label.mean(), abs=1e-3)
    assert {"logloss", "ece", "ece_floor", "pcoc"} == set(manifest.metrics["calibration"]["after"])


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_interrupted_run_ends_with_the_same_bytes(
    tmp_path: Path, small: Any, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    config = build_config(RankingConfig, VALUES | {"schedule": schedule}, "test")
    whole = train_ranker(config, small.corpus, small.sids, tmp_path / "whole")
    save, saved = dasrec.core.training._save, []

    def stop_after_first(*args: Any) -> None:
        save(*args)
        saved.append(1)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dasrec.core.training, "_save", stop_after_first)
        with pytest.raises(KeyboardInterrupt):
            train_ranker(config, small.corpus, small.sids, tmp_path / "broken")
    assert not (tmp_path / "broken").exists()
    resumed = train_ranker(config, small.corpus, small.sids, tmp_path / "broken")
    assert saved == [1]
    assert resumed.files == whole.files
    assert resumed.fingerprint == whole.fingerprint


def test_linear_schedule_is_torchs(
    tmp_path: Path, small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def noted(self: torch.optim.AdamW, *args: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    values = VALUES | {"schedule": "linear", "learning_rate": 0.01}
    config = build_config(RankingConfig, values, "test")
    train_ranker(config, small.corpus, None, tmp_path / "r")
    weight = torch.nn.Parameter(torch.zeros(1))
    oracle = torch.optim.SGD([weight], lr=0.01)
    falling = torch.optim.lr_scheduler.LinearLR(oracle, 1.0, 0.0, total_iters=len(rates))
    for rate in rates:
        assert rate == pytest.approx(falling.get_last_lr()[0], rel=1e-6)
        oracle.step()
        falling.step()
    assert len(rates) % 3 == 0


def test_seed_matters(tmp_path: Path, small: Any) -> None:
    first = train_ranker(CONFIG, small.corpus, None, tmp_path / "a", seed=0)
    second = train_ranker(CONFIG, small.corpus, None, tmp_path / "b", seed=1)
    assert first.files["model.safetensors"] != second.files["model.safetensors"]


def test_refuses_pieces_that_do_not_belong_together(
    tmp_path: Path, small: Any, implicit: Any
) -> None:
    out = tmp_path / "ranker"
    train_ranker(CONFIG, small.corpus, small.sids, out)
    with pytest.raises(ValueError, match="was built from corpus"):
        load_ranker(out, implicit.corpus, implicit.sids)
    with pytest.raises(ValueError, match="was trained with semantic IDs"):
        load_ranker(out, small.corpus, None)
    with pytest.raises(ValueError, match="semantic IDs were built from corpus"):
        train_ranker(CONFIG, small.corpus, implicit.sids, tmp_path / "other")
    with pytest.raises(FileExistsError, match="choose another folder"):
        train_ranker(CONFIG, small.corpus, small.sids, out)
    train_ranker(CONFIG, small.corpus, None, out, replace=True)
    assert set(load_manifest(out, "ranking_model").inputs) == {"corpus"}
    with pytest.raises(ValueError, match="was built from semantic_ids None"):
        load_ranker(out, small.corpus, small.sids)
    assert not (tmp_path / "other").exists()


def test_refuses_a_corpus_without_validation_rows(
    tmp_path: Path, small: Any, make_corpus: Any
) -> None:
    *columns, split = small.log
    corpus = make_corpus(*columns, np.where(split == 1, 2, split), small.sizes, impressions=True)
    with pytest.raises(ValueError, match="the valid split needs rows of both labels"):
        train_ranker(CONFIG, corpus, None, tmp_path / "ranker")


def test_learns_from_interactions_alone(tmp_path: Path, implicit: Any) -> None:
    values = VALUES | {"learning_rate": 3e-3, "epochs": 5}
    config = build_config(RankingConfig, values, "test")
    manifest = train_ranker(config, implicit.corpus, implicit.sids, tmp_path / "ranker")
    assert manifest.metrics["test"]["all"]["gauc"] > 0.6
    assert manifest.metrics["rows"]["train"] > 0
