"""Stage: Corpus and SemanticIds -> RankingModel."""

import dataclasses
import json
import logging
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from dasrec.core import check_free
from dasrec.core.artifacts import (
    Manifest,
    load_manifest,
    recipe_digest,
    work_dir,
    write_artifact,
)
from dasrec.core.corpus import SPLITS, Corpus, Split
from dasrec.core.processes import processes
from dasrec.core.seeding import seed_everything
from dasrec.core.semantic_ids import SemanticIds
from dasrec.eval.ctr_metrics import ctr_report, user_aucs
from dasrec.ranking.calibration import calibration_figures, fit_calibration
from dasrec.ranking.config import RankingConfig
from dasrec.ranking.features import build_schema
from dasrec.ranking.features.encode import field_collisions
from dasrec.ranking.loop import fit_ranker
from dasrec.ranking.model import CtrModel
from dasrec.ranking.negatives import rows_of
from dasrec.ranking.ranker import Ranker
from dasrec.ranking.rows import HistorySource, Rows, check_rows
from dasrec.ranking.tables import build_tables, hash_collisions

log = logging.getLogger(__name__)

COLD_ITEM_COUNT = 5
"""An item with at most so many training interactions is cold (DAS reports this slice)."""


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

    An interrupted run goes on from its last finished epoch when it is called again. Under
    `accelerate launch` the processes share each batch's rows and end with the weights that one
    process would have, up to rounding (and to Dice's batch statistics).

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
    _tell_of_todays_sids(config, sids)
    fingerprints = {name: manifest.fingerprint for name, manifest in inputs.items()}
    values = config.as_json()
    recipe = recipe_digest("ranking_model", values, fingerprints, seed)
    state = processes()
    with state.main_process_first():  # it may have to empty the folder
        work = work_dir(out, recipe)
    ranker = new_ranker(config, corpus, sids, rows["train"], seed)
    began = time.perf_counter()
    fitted = fit_ranker(config, ranker, rows["train"], rows["valid"], seed, work)
    seconds = time.perf_counter() - began
    state.wait_for_everyone()  # all have read what the main process now adds or removes
    if state.is_main_process:
        ranker = calibrate(config, ranker, rows["valid"])
        figures = {
            "best_epoch": fitted.best_epoch,
            "valid": fitted.best_metrics,
            "rows": {split: len(part.label) for split, part in rows.items()},
            "parameters": sum(p.numel() for p in ranker.model.parameters()),
            "item_hash_collisions": hash_collisions(ranker.tables.items),
            "field_hash_collisions": field_collisions(ranker.model.schema, corpus),
        } | test_figures(ranker, corpus, rows["test"], config.batch_size)
        write_artifact(
            out,
            "ranking_model",
            values,
            inputs,
            lambda scratch: save_ranker_payload(scratch, config, ranker, figures),
            seed=seed,
            metrics=figures | {"train_seconds": round(seconds, 2), "history": fitted.history},
            replace=replace,
        )
        shutil.rmtree(work)
    state.wait_for_everyone()
    return load_manifest(out, "ranking_model")


def calibrate(config: RankingConfig, ranker: Ranker, valid: Rows) -> Ranker:
    """The ranker with a calibration fitted on the validation rows."""
    logits = ranker.score_rows(valid, config.batch_size)
    return dataclasses.replace(
        ranker, calibration=fit_calibration(config.calibration, valid.label, logits)
    )


def test_figures(ranker: Ranker, corpus: Corpus, rows: Rows, batch_size: int) -> dict[str, Any]:
    """CTR metrics of all rows, of cold items' rows and of warm items' rows (cold against cold), and
    what calibration changes; the metrics are those of the plain logits."""
    logits = ranker.score_rows(rows, batch_size)
    cold = corpus.train_item_count[rows.item_idx] <= COLD_ITEM_COUNT
    slices = {"all": np.ones(len(cold), np.bool_), "cold": cold, "warm": ~cold}
    report: dict[str, dict[str, Any]] = {}
    for name, part in slices.items():
        report[name] = _without_nan(ctr_report(rows.user_idx[part], rows.label[part], logits[part]))
        auc, gauc = report[name]["auc"], report[name]["gauc"]
        log.info("ranking: test %s  auc %s  gauc %s", name, auc, gauc)
    effect = calibration_figures(ranker.calibration, rows.label, logits)
    calibration = {name: _without_nan(values) for name, values in effect.items()}
    return {"test": report, "calibration": calibration}


def _without_nan(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}


def save_ranker_payload(
    path: Path, config: RankingConfig, ranker: Ranker, figures: Mapping[str, Any]
) -> None:
    """Write the payload of a `ranking_model` artifact."""
    weights = {k: v.contiguous().cpu() for k, v in ranker.model.state_dict().items()}
    save_file(weights, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config.as_json(), indent=2) + "\n")
    (path / "calibration.json").write_text(ranker.calibration.model_dump_json() + "\n")
    (path / "schema.json").write_text(ranker.model.schema.model_dump_json() + "\n")
    (path / "metrics.json").write_text(json.dumps(figures, indent=2) + "\n")


def new_ranker(
    config: RankingConfig, corpus: Corpus, sids: SemanticIds | None, train: Rows, seed: int
) -> Ranker:
    """The untrained model on its data."""
    schema = build_schema(config.features, corpus, train, sids)
    tables = build_tables(config.features, schema, corpus, sids)
    seed_everything(seed, "ranking", "init")
    model = CtrModel(config.model, config.features, schema, tables)
    device = processes().device
    source = HistorySource(corpus, config.features.max_history, device, tables.sid_of_moment)
    return Ranker(model.to(device), tables, source)


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


def _tell_of_todays_sids(config: RankingConfig, sids: SemanticIds | None) -> None:
    """Warn where rows get their users' last SIDs though those of their own time are wanted."""
    if sids is None or sids.users is None or sids.user_moments is not None:
        return
    if config.features.user_sids and config.features.sid_moments:
        log.warning(
            "ranking: the semantic IDs hold no users over time, so every row has its user's SID "
            "of today. Where that is made from clicks, it gives away labels of the training rows, "
            "and the model trusts it more than it should; use assign.user_moments: true with "
            "embed.users.encoder: history_mean, or ranking.train.features.user_sids: false (or "
            "sid_moments: false if it is meant)"
        )


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
