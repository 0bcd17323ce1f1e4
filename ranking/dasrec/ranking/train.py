"""Stage: Corpus and SemanticIds -> RankingModel."""

import json
import logging
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from dasrec.core import check_free
from dasrec.core.artifacts import Manifest, recipe_digest, work_dir, write_artifact
from dasrec.core.config import StageConfig
from dasrec.core.corpus import SPLITS, Corpus, Split
from dasrec.core.seeding import derive_seed, seed_everything
from dasrec.core.semantic_ids import SemanticIds
from dasrec.core.training import fit
from dasrec.eval.ctr_metrics import auc, ctr_report, logloss, user_aucs
from dasrec.ranking.backbones import ModelConfig
from dasrec.ranking.features import FeatureConfig, build_schema
from dasrec.ranking.features.encode import field_collisions
from dasrec.ranking.model import CtrModel
from dasrec.ranking.negatives import NegativesConfig, rows_of
from dasrec.ranking.ranker import Ranker, default_device
from dasrec.ranking.row_tensors import RowTensors, to_tensors
from dasrec.ranking.rows import HistorySource, Rows, check_rows
from dasrec.ranking.tables import build_tables, hash_collisions

log = logging.getLogger(__name__)

COLD_ITEM_COUNT = 5
"""An item with at most so many training interactions is cold (DAS reports this slice)."""


class RankingConfig(StageConfig):
    """Training of the CTR model."""

    features: FeatureConfig = FeatureConfig()
    """Inputs of the model."""

    model: ModelConfig = ModelConfig()
    """Size of the network."""

    negatives: NegativesConfig = NegativesConfig()
    """Sampled negatives, for a corpus without labelled impressions."""

    epochs: int = Field(default=5, ge=1)
    """Epochs at most; CTR models often overfit from the second one on."""

    patience: int = Field(default=1, ge=0)
    """Stop after so many epochs without a better validation GAUC; the best weights are kept."""

    batch_size: int = Field(default=2048, ge=1)
    """Rows per step."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Of AdamW."""

    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay of AdamW, on every parameter."""


def train_ranker(
    config: RankingConfig,
    corpus: Corpus,
    sids: SemanticIds | None,
    out: Path,
    *,
    seed: int = 0,
    replace: bool = False,
) -> Manifest:
    """Train on the training rows, stop on validation GAUC, measure the test rows once.

    An interrupted run goes on from its last finished epoch when it is called again.

    Args:
        config: the stage's config.
        corpus: with labelled impressions, or with interactions only (negatives are sampled).
        sids: semantic IDs of this corpus; None trains the ID-only model.
        out: directory of the new `ranking_model` artifact.
        seed: of initial weights, order of rows and sampled negatives.
        replace: swap an artifact that is already at `out`.

    Returns:
        The manifest; its metrics hold valid and test figures (all, cold items, warm items).

    Raises:
        FileExistsError: `out` exists and `replace` is false.
        ValueError: SIDs of another corpus, or training or validation rows that cannot be learned
            from or measured.
    """
    out = Path(out)
    inputs = _check(corpus, sids, out, replace)
    rows: dict[Split, Rows] = {
        split: rows_of(config.negatives, corpus, split, seed) for split in SPLITS
    }
    for split, part in rows.items():
        check_rows(part, corpus, split)
    _check_rows(rows)
    fingerprints = {name: manifest.fingerprint for name, manifest in inputs.items()}
    values = config.as_json()
    work = work_dir(out, recipe_digest("ranking_model", values, fingerprints, seed))
    ranker = _new_ranker(config, corpus, sids, rows["train"], seed)
    began = time.perf_counter()
    best_epoch, valid = _fit(config, ranker, rows["train"], rows["valid"], seed, work)
    seconds = time.perf_counter() - began
    figures = {
        "best_epoch": best_epoch,
        "valid": valid,
        "test": test_report(ranker, corpus, rows["test"], config.batch_size),
        "rows": {split: len(part.label) for split, part in rows.items()},
        "parameters": sum(p.numel() for p in ranker.model.parameters()),
        "item_hash_collisions": hash_collisions(ranker.tables.items),
        "field_hash_collisions": field_collisions(ranker.model.schema, corpus),
    }
    manifest = write_artifact(
        out,
        "ranking_model",
        values,
        inputs,
        lambda scratch: save_ranker_payload(scratch, config, ranker, figures),
        seed=seed,
        metrics=figures | {"train_seconds": round(seconds, 2)},
        replace=replace,
    )
    shutil.rmtree(work)
    return manifest


def test_report(
    ranker: Ranker, corpus: Corpus, rows: Rows, batch_size: int
) -> dict[str, dict[str, Any]]:
    """CTR metrics of all rows, of cold items' rows and of warm items' rows (cold against cold)."""
    logits = ranker.score_rows(rows, batch_size)
    cold = corpus.train_item_count[rows.item_idx] <= COLD_ITEM_COUNT
    slices = {"all": np.ones(len(cold), np.bool_), "cold": cold, "warm": ~cold}
    report: dict[str, dict[str, Any]] = {}
    for name, part in slices.items():
        values = ctr_report(rows.user_idx[part], rows.label[part], logits[part])
        report[name] = {
            k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()
        }
        log.info("ranking: test %s  auc %s  gauc %s", name, values["auc"], values["gauc"])
    return report


def save_ranker_payload(
    path: Path, config: RankingConfig, ranker: Ranker, figures: Mapping[str, Any]
) -> None:
    """Write the payload of a `ranking_model` artifact."""
    weights = {k: v.contiguous().cpu() for k, v in ranker.model.state_dict().items()}
    save_file(weights, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config.as_json(), indent=2) + "\n")
    (path / "schema.json").write_text(ranker.model.schema.model_dump_json() + "\n")
    (path / "metrics.json").write_text(json.dumps(figures, indent=2) + "\n")


def _new_ranker(
    config: RankingConfig, corpus: Corpus, sids: SemanticIds | None, train: Rows, seed: int
) -> Ranker:
    schema = build_schema(config.features, corpus, train, sids)
    tables = build_tables(config.features, schema, corpus, sids)
    seed_everything(seed, "ranking", "init")
    model = CtrModel(config.model, config.features, schema, tables)
    device = default_device()
    source = HistorySource(corpus, config.features.max_history, device)
    return Ranker(model.to(device), tables, source)


def _fit(
    config: RankingConfig, ranker: Ranker, train: Rows, valid: Rows, seed: int, work: Path
) -> tuple[int, dict[str, float]]:
    model, device = ranker.model, ranker.source.device
    # Fused: one pass over the tables, which are larger than a batch; several times as fast.
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=True,
    )
    tensors = to_tensors(train, model.schema, device)

    def run_epoch(epoch: int) -> dict[str, float]:
        order = torch.Generator().manual_seed(derive_seed(seed, "ranking", "order", epoch))
        shuffled = torch.randperm(len(train.label), generator=order).to(device)
        total = torch.zeros((), device=device)
        for picked in torch.split(shuffled, config.batch_size):
            loss = _loss(ranker, tensors, picked)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(picked)
        return {"loss": float(total) / len(shuffled)}

    def validate(epoch: int) -> dict[str, float]:
        logits = ranker.score_rows(valid, config.batch_size)
        return {
            "gauc": user_aucs(valid.user_idx, valid.label, logits).gauc,
            "auc": auc(valid.label, logits),
            "logloss": logloss(valid.label, logits),
        }

    result = fit(
        model,
        {"optimizer": optimizer},
        run_epoch,
        name="ranking",
        num_epochs=config.epochs,
        seed=seed,
        work=work,
        validate=validate,
        primary="gauc",
        patience=config.patience,
    )
    return result.best_epoch, result.best_metrics


def _loss(ranker: Ranker, rows: RowTensors, picked: Tensor) -> Tensor:
    batch = ranker.source.batch(
        rows.user_M[picked],
        rows.item_M[picked],
        rows.end_M[picked],
        rows.category_MC[picked],
        rows.number_MC[picked],
    )
    loss = F.binary_cross_entropy_with_logits(ranker.model(batch), rows.label_M[picked])
    return loss + ranker.model.embedding.auxiliary_loss(batch)


def _check(
    corpus: Corpus, sids: SemanticIds | None, out: Path, replace: bool
) -> dict[str, Manifest]:
    check_free(out, replace)
    if sids is None:
        return {"corpus": corpus.manifest}
    if sids.manifest.inputs.get("corpus") != corpus.manifest.fingerprint:
        raise ValueError(
            f"ranking: the semantic IDs were built from corpus "
            f"{sids.manifest.inputs.get('corpus')}, got corpus {corpus.manifest.fingerprint}; "
            "assign them again from this corpus"
        )
    return {"corpus": corpus.manifest, "semantic_ids": sids.manifest}


def _check_rows(rows: Mapping[Split, Rows]) -> None:
    checked: tuple[Split, ...] = ("train", "valid")
    for split in checked:
        label = rows[split].label
        if not len(label) or label.min() == label.max():
            raise ValueError(
                f"ranking: the {split} split needs rows of both labels, got {len(label)} rows; "
                "cut the corpus at other times"
            )
    valid = rows["valid"]
    if not len(user_aucs(valid.user_idx, valid.label, valid.label).users):
        raise ValueError(
            "ranking: no validation user has both labels, so GAUC cannot choose the best epoch; "
            "cut the corpus so that the validation split is longer"
        )
