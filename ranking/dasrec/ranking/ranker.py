"""A trained CTR model that scores rows, and how to open one."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from safetensors.torch import load_file

from dasrec.core.artifacts import Manifest, load_manifest
from dasrec.core.config import build_config
from dasrec.core.corpus import Corpus, Int64s
from dasrec.core.semantic_ids import SemanticIds
from dasrec.ranking.backbones import ModelConfig
from dasrec.ranking.calibration import UNCALIBRATED, Calibration
from dasrec.ranking.features import FeatureConfig, FeatureSchema
from dasrec.ranking.features.encode import encode_context
from dasrec.ranking.model import CtrModel
from dasrec.ranking.rows import HistorySource, Rows
from dasrec.ranking.tables import FeatureTables, build_tables

Indices = npt.NDArray[np.int32] | Int64s


@dataclass(frozen=True)
class Ranker:
    """The network, the lookup tables it was built on, and where histories come from."""

    model: CtrModel
    tables: FeatureTables
    source: HistorySource
    manifest: Manifest | None = None
    calibration: Calibration = UNCALIBRATED

    def score(
        self,
        user_idx: Indices,
        item_idx: Indices,
        history_end: Int64s,
        batch_size: int = 8192,
        context: pl.DataFrame | None = None,
    ) -> npt.NDArray[np.float32]:
        """Logits of rows, in their order.

        Args:
            user_idx: (M,)
            item_idx: (M,)
            history_end: (M,) interaction row where each history ends, exclusive (for a query of
                `Corpus.queries` that is the query itself).
            batch_size: rows at a time.
            context: (M rows) what `context_columns` of the schema names; None = not known.

        Raises:
            ValueError: a context column that is missing or of another type than in training.
        """
        device = self.source.device
        encoded = encode_context(self.model.schema, context, len(user_idx))
        columns = [
            torch.from_numpy(np.array(column, np.int64))
            for column in (user_idx, item_idx, history_end)
        ]
        columns += [torch.from_numpy(column) for column in encoded]
        logits = np.empty(len(columns[0]), np.float32)
        self.model.eval()
        with torch.inference_mode():
            for start in range(0, len(logits), batch_size):
                part = slice(start, start + batch_size)
                batch = self.source.batch(*(column[part].to(device) for column in columns))
                logits[part] = self.model(batch).cpu().numpy()
        return logits

    def score_rows(self, rows: Rows, batch_size: int = 8192) -> npt.NDArray[np.float32]:
        """Logits of labelled rows, in their order, with their context."""
        return self.score(rows.user_idx, rows.item_idx, rows.history_end, batch_size, rows.context)

    def probability(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Calibrated click probabilities of logits, same shape; in their order."""
        return self.calibration(logits)


def load_ranker(path: str | Path, corpus: Corpus, sids: SemanticIds | None) -> Ranker:
    """Open a `ranking_model` artifact.

    Args:
        path: its directory.
        corpus: the corpus it was trained on.
        sids: the semantic IDs it was trained with or a later version; None for an ID-only model.

    Raises:
        ValueError: another corpus or other semantic IDs than those it was trained with.
    """
    path = Path(path)
    manifest = load_manifest(path, "ranking_model", {"corpus": corpus.manifest})
    if sids is not None:
        sids.check_built_from(path, manifest)
    elif "semantic_ids" in manifest.inputs:
        raise ValueError(
            f"{path}: was trained with semantic IDs {manifest.inputs['semantic_ids']}, got none; "
            "pass the SemanticIds artifact it was trained with"
        )
    values = json.loads((path / "config.json").read_text())
    features = build_config(FeatureConfig, values["features"], f"{path}/config.json: features")
    model_config = build_config(ModelConfig, values["model"], f"{path}/config.json: model")
    schema = FeatureSchema.model_validate_json((path / "schema.json").read_text())
    tables = build_tables(features, schema, corpus, sids)
    model = CtrModel(model_config, features, schema, tables)
    model.load_state_dict(load_file(path / "model.safetensors"))
    device = default_device()
    source = HistorySource(corpus, features.max_history, device, tables.sid_of_moment)
    calibration = Calibration.model_validate_json((path / "calibration.json").read_text())
    return Ranker(model.to(device).eval(), tables, source, manifest, calibration)


def default_device() -> torch.device:
    """The accelerator if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
