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
from dasrec.ranking.features import FeatureSchema
from dasrec.ranking.features.encode import check_vectors
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
    recipe = _model_recipe(arm, seed, corpus, None if given is None else given.fingerprint)
    if not _is_trained(model, recipe, corpus):
        train_ranker(arm.train, corpus, given, model, seed=seed, replace=True)
    if not _is_made(logits, "ranking_logits", _logits_recipe(model, seed)):
        _write_logits(arm, seed, corpus, given, model, logits)


def load_arm(
    arm: Arm, seed: int, corpus: Corpus, sids: Mapping[str, str], folder: Path
) -> ArmResult | None:
    """What `make_arm` wrote for these settings and inputs; None where it has not.

    Args:
        arm: as planned now.
        seed: of everything.
        corpus: what it must have been trained on.
        sids: fingerprints by tokenizer.
        folder: of the whole comparison.
    """
    place = folder / arm.name / str(seed)
    model, logits = place / "model", place / "logits"
    if not model.exists():
        return None
    recipe = _recipe_now(arm, seed, corpus, sids, place)
    if recipe is None or not _is_trained(model, recipe, corpus):
        log.warning(
            "compare: %s/%d was made with other settings or from other inputs and is left out; "
            "train it again (--arm %s --seed %d) to have it",
            *(arm.name, seed, arm.name, seed),
        )
        return None
    if not _is_made(logits, "ranking_logits", _logits_recipe(model, seed)):
        return None
    table = pl.read_parquet(logits / LOGITS)
    return ArmResult(
        table["user_idx"].to_numpy().astype(np.int64),
        table["item_idx"].to_numpy().astype(np.int64),
        table["label"].to_numpy().astype(np.float64),
        table["logit"].to_numpy().astype(np.float64),
        load_manifest(model, "ranking_model"),
    )


def _recipe_now(
    arm: Arm, seed: int, corpus: Corpus, sids: Mapping[str, str], place: Path
) -> str | None:
    """What the model of an arm is to be made from; None where its semantic IDs are not there."""
    if arm.tokenizer is None:
        return _model_recipe(arm, seed, corpus, None)
    if arm.tokenizer not in sids:
        return None
    fingerprint = sids[arm.tokenizer]
    if arm.shuffle_sids:
        if not _is_made(
            place / "sids", "semantic_ids", _shuffled_recipe(fingerprint, corpus, seed)
        ):
            return None
        fingerprint = load_manifest(place / "sids", "semantic_ids").fingerprint
    return _model_recipe(arm, seed, corpus, fingerprint)


def _model_recipe(arm: Arm, seed: int, corpus: Corpus, semantic_ids: str | None) -> str:
    inputs = {"corpus": corpus.manifest.fingerprint}
    if semantic_ids is not None:
        inputs["semantic_ids"] = semantic_ids
    return recipe_digest("ranking_model", arm.train.as_json(), inputs, seed)


def _logits_recipe(model: Path, seed: int) -> str:
    inputs = {"ranking_model": load_manifest(model, "ranking_model").fingerprint}
    return recipe_digest("ranking_logits", {}, inputs, seed)


def _shuffled_recipe(semantic_ids: str, corpus: Corpus, seed: int) -> str:
    inputs = {"corpus": corpus.manifest.fingerprint, "shuffled": semantic_ids}
    return recipe_digest("semantic_ids", {}, inputs, seed)


def _shuffled(sids: SemanticIds, corpus: Corpus, out: Path, seed: int) -> SemanticIds:
    if not _is_made(out, "semantic_ids", _shuffled_recipe(sids.fingerprint, corpus, seed)):
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


def _is_trained(model: Path, recipe: str, corpus: Corpus) -> bool:
    """Whether the model is there, its frozen vectors included, which the recipe names by path."""
    if not _is_made(model, "ranking_model", recipe):
        return False
    schema = FeatureSchema.model_validate_json((model / "schema.json").read_text())
    try:
        check_vectors(schema, corpus)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _is_made(path: Path, kind: str, recipe: str) -> bool:
    try:
        return load_manifest(path, kind).recipe == recipe
    except (FileNotFoundError, ValueError):
        return False
