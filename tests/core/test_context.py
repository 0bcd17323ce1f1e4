"""Context columns of the log: they stay with their impression, and only they are kept."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from dasrec.core import Corpus, PrepareConfig, build_config, prepare

COLUMNS = {"order": "pos", "label": "click"}


def run(folder: Path, interactions: dict[str, Any], **values: Any) -> Corpus:
    rng = np.random.default_rng(0)
    rows = 200
    log = pl.DataFrame(
        {
            "user_id": rng.integers(0, 7, rows),
            "item_id": rng.integers(0, 9, rows),
            "timestamp": 86_400 * np.arange(rows),
            "pos": np.arange(rows),
            "click": rng.integers(0, 2, rows),
            "device": [None if r % 5 == 0 else f"d{r}" for r in range(rows)],
            "bid": np.arange(rows) / 2,
            "unused": np.ones(rows),
        }
    ).sample(fraction=1, shuffle=True, seed=1)
    folder.mkdir(parents=True, exist_ok=True)
    log.write_parquet(folder / "log.parquet")
    table = {"path": "log.parquet", "columns": COLUMNS} | interactions
    values = {"interactions": table, "positive_label": 1} | values
    config = build_config(PrepareConfig, values, "test: prepare")
    return prepare(config, folder, folder / "corpus", replace=True)


@pytest.mark.parametrize("split", [{}, {"split": {"cold_items": 0.3}}])
def test_context_stays_with_its_impression(tmp_path: Path, split: dict[str, Any]) -> None:
    corpus = run(tmp_path, {"keep": ["bid", "device"]}, **split)
    found = corpus.impressions
    assert found is not None
    assert found.context.columns == ["bid", "device"]
    assert len(found.context) == len(found.label) > 100
    place = found.timestamp // 86_400  # the row of the log
    assert found.context["bid"].to_list() == (place / 2).tolist()
    assert found.context["device"].to_list() == [None if r % 5 == 0 else f"d{r}" for r in place]


def test_without_keep_there_is_no_context(tmp_path: Path) -> None:
    corpus = run(tmp_path, {})
    assert corpus.impressions is not None
    assert corpus.impressions.context.columns == []
    assert not (corpus.path / "impressions.context.parquet").exists()


@pytest.mark.parametrize(
    ("interactions", "message"),
    [
        ({"keep": ["devise"]}, "no column 'devise'; did you mean 'device'"),
        ({"keep": ["pos"]}, "interactions.keep: pos is read for another purpose already"),
    ],
)
def test_faults(tmp_path: Path, interactions: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path, interactions)


def test_context_needs_labels() -> None:
    values = {"interactions": {"path": "log.parquet", "keep": ["device"]}}
    with pytest.raises(ValueError, match="but no positive_label"):
        build_config(PrepareConfig, values, "test: prepare")
