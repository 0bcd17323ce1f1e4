"""Items made new: against the same log prepared without it."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from dasrec.core import Corpus, build_config
from dasrec.core.prepare import PrepareConfig, prepare

Event = tuple[int, int, int]


def make(tmp_path: Path, split: dict[str, Any]) -> Corpus:
    rng = np.random.default_rng(3)
    rows = 400
    log = pl.DataFrame(
        {
            "user_id": [f"u{u}" for u in rng.integers(0, 12, rows)],
            "item_id": [f"i{i}" for i in rng.integers(0, 20, rows)],
            "timestamp": np.arange(rows) * 60,
            "click": rng.integers(0, 2, rows),
        }
    )
    log.write_parquet(tmp_path / "log.parquet")
    values = {
        "interactions": {"path": "log.parquet", "columns": {"label": "click"}},
        "positive_label": 1,
        "split": {"method": "global_time", "valid_from": 0.6, "test_from": 0.8} | split,
    }
    config = build_config(PrepareConfig, values, "test")
    return prepare(config, tmp_path, tmp_path / "corpus", replace=True)


def events(corpus: Corpus, part: int) -> set[Event]:
    rows = corpus.split == part
    columns = (corpus.user_idx, corpus.item_idx, corpus.timestamp)
    return set(zip(*(column[rows].tolist() for column in columns), strict=True))


def test_cold_items_lose_their_training_events_and_no_others(tmp_path: Path) -> None:
    plain = make(tmp_path, {})
    before = [events(plain, part) for part in range(3)]
    exposed = plain.impressions
    assert exposed is not None
    old = set(
        zip(exposed.user_idx.tolist(), exposed.timestamp.tolist(), exposed.split, strict=True)
    )
    corpus = make(tmp_path, {"cold_items": 0.3})
    trained = {item for _, item, _ in before[0]}
    cold = trained - {item for _, item, _ in events(corpus, 0)}
    assert len(cold) == 6  # 30 % of 20, all of which the plain corpus trains on
    assert events(corpus, 0) == {event for event in before[0] if event[1] not in cold}
    assert [events(corpus, part) for part in (1, 2)] == before[1:]
    found = corpus.impressions
    assert found is not None
    assert not np.isin(found.item_idx[found.split == 0], list(cold)).any()
    assert np.isin(found.item_idx[found.split == 2], list(cold)).any()
    new = set(zip(found.user_idx.tolist(), found.timestamp.tolist(), found.split, strict=True))
    assert {row for row in new if row[2]} == {row for row in old if row[2]}
    for user, end, time in zip(found.user_idx, found.history_end, found.timestamp, strict=True):
        start = corpus.user_start[user]
        own = corpus.timestamp[start : corpus.user_start[user + 1]]
        assert end - start == (own < time).sum()


def test_a_share_that_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no training interaction is left; give a lower share"):
        make(tmp_path, {"cold_items": 0.99})
    with pytest.raises(ValueError, match="cold_items"):
        make(tmp_path, {"cold_items": 1.0})
