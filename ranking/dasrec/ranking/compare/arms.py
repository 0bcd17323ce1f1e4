"""One arm with one seed: a trained CTR model, and what it says about every test row."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from dasrec.core.artifacts import Manifest, load_manifest, recipe_digest, write_artifact
from dasrec.core.corpus import Corpus, Int64s
from dasrec.core.semantic_ids import SemanticIds, load_sids
from dasrec.ranking.compare.config import Arm
from dasrec.ranking.compare.shuffled import write_shuffled
from dasrec.ranking.negatives import rows_of
from dasrec.ranking.ranker import load_ranker
from dasrec.ranking.train import train_ranker

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
LOGITS = "test.parquet"


class ArmResult(NamedTuple):
    """The test rows of one arm and seed."""

    user_idx: Int64s
    """(M,)"""
    item_idx: Int64s
    """(M,)"""
    label: Floats
    """(M,)"""
    logit: Floats
    """(M,) of the calibrated probability."""
    model: Manifest
    """Of the model; its metrics hold seconds and validation figures."""


def make_arm(
    arm: Arm, seed: int, corpus: Corpus, sids: Mapping[str, SemanticIds], folder: Path
) -> None:
    """Train and score an arm, unless it is there already; its parts lie in `folder`/ARM/SEED.

    Args:
        arm: what to train.
        seed: of everything.
        corpus: what it is trained on.
        sids: by tokenizer.
        folder: of the whole comparison.
    """
    place = folder / arm.name / str(seed)
    model, logits = place / "model", place / "logits"
    given = None if arm.tokenizer is None else sids[arm.tokenizer]
    if given is not None and arm.shuffle_sids:
        given = _shuffled(given, corpus, place / "sids", seed)
    inputs = {"corpus": corpus.manifest.fingerprint}
    if given is not None:
        inputs["semantic_ids"] = given.fingerprint
    recipe = recipe_digest("ranking_model", arm.train.as_json(), inputs, seed)
    if not _is_made(model, "ranking_model", recipe):
        train_ranker(arm.train, corpus, given, model, seed=seed, replace=True)
    manifest = load_manifest(model, "ranking_model")
    recipe = recipe_digest("ranking_logits", {}, {"ranking_model": manifest.fingerprint}, seed)
    if not _is_made(logits, "ranking_logits", recipe):
        _write_logits(arm, seed, corpus, given, model, logits)


def load_arm(folder: Path, name: str, seed: int) -> ArmResult | None:
    """What `make_arm` wrote; None where it has not."""
    place = folder / name / str(seed)
    try:
        model = load_manifest(place / "model", "ranking_model")
        load_manifest(place / "logits", "ranking_logits", {"ranking_model": model})
    except FileNotFoundError:
        return None
    table = pl.read_parquet(place / "logits" / LOGITS)
    return ArmResult(
        table["user_idx"].to_numpy().astype(np.int64),
        table["item_idx"].to_numpy().astype(np.int64),
        table["label"].to_numpy().astype(np.float64),
        table["logit"].to_numpy().astype(np.float64),
        model,
    )


def _shuffled(sids: SemanticIds, corpus: Corpus, out: Path, seed: int) -> SemanticIds:
    inputs = {"corpus": corpus.manifest.fingerprint, "shuffled": sids.fingerprint}
    if not _is_made(out, "semantic_ids", recipe_digest("semantic_ids", {}, inputs, seed)):
        write_shuffled(sids, corpus, out, seed)
    return load_sids(out, corpus.manifest)


def _write_logits(
    arm: Arm, seed: int, corpus: Corpus, sids: SemanticIds | None, model: Path, out: Path
) -> None:
    ranker = load_ranker(model, corpus, sids)
    assert ranker.manifest is not None
    rows = rows_of(arm.train.negatives, corpus, "test", seed)
    logits = ranker.score_rows(rows, arm.train.batch_size)
    table = pl.DataFrame(
        {
            "user_idx": rows.user_idx,
            "item_idx": rows.item_idx,
            "label": rows.label,
            "logit": ranker.calibration.log_odds(logits),
        }
    )
    write_artifact(
        out,
        "ranking_logits",
        {},
        {"ranking_model": ranker.manifest},
        lambda scratch: table.write_parquet(scratch / LOGITS),
        seed=seed,
        replace=True,
    )


def _is_made(path: Path, kind: str, recipe: str) -> bool:
    try:
        return load_manifest(path, kind).recipe == recipe
    except (FileNotFoundError, ValueError):
        return False
