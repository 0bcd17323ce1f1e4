from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dasrec.core import Corpus, Recommendations, load_corpus, write_artifact, write_recommendations
from dasrec.core.corpus import save_corpus_payload

DAY = 86_400
NUM_ITEMS = 40


@pytest.fixture(autouse=True)
def hf_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """`evaluate` writes to its caches; keep them out of the home folder."""
    home = str(tmp_path_factory.getbasetemp() / "hf")
    for name in ("HF_HOME", "HF_MODULES_CACHE", "HF_METRICS_CACHE"):
        monkeypatch.setenv(name, home)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """60 users with 3 to 14 events, last = test, second last = valid; skewed items; many ties."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 15, 60)
    user_idx = np.repeat(np.arange(60), lengths)
    total = int(lengths.sum())
    item_idx = np.minimum(rng.geometric(0.12, total) - 1, NUM_ITEMS - 1)
    ends = np.cumsum(lengths)
    split = np.zeros(total, np.int8)
    split[ends - 1], split[ends - 2] = 2, 1
    timestamp = np.cumsum(rng.integers(0, 2, total)) * DAY + 5

    def payload(scratch: Path) -> None:
        save_corpus_payload(
            scratch,
            user_idx=user_idx.astype(np.int32),
            item_idx=item_idx.astype(np.int32),
            timestamp=timestamp,
            split=split,
            users=pl.DataFrame({"user_id": [f"u{u}" for u in range(60)]}),
            items=pl.DataFrame({"item_id": [f"i{i}" for i in range(NUM_ITEMS)]}),
            impressions=None,
        )

    write_artifact(tmp_path / "corpus", "corpus", {}, {}, payload)
    return load_corpus(tmp_path / "corpus")


@pytest.fixture
def write_lists(corpus: Corpus, tmp_path: Path) -> Callable[..., Path]:
    """Write random lists (some short, some empty) for the queries of valid and test."""

    def write(name: str = "lists", seed: int = 0, width: int = 20, skip: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        queries = np.sort(np.concatenate([corpus.queries("valid"), corpus.queries("test")]))
        queries = queries[skip:]
        items = rng.random((len(queries), NUM_ITEMS)).argsort(1)[:, :width].astype(np.int32)
        real = np.arange(width) < rng.integers(0, width + 1, len(queries))[:, None]
        score = np.where(real, -np.arange(width), -np.inf).astype(np.float32)
        lists = Recommendations(queries, np.where(real, items, -1).astype(np.int32), score)
        write_recommendations(tmp_path / name, {}, {"corpus": corpus.manifest}, lists, seed=seed)
        return tmp_path / name

    return write
