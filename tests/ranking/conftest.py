"""Small corpora and semantic IDs, written as real artifacts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from dasrec.core import Corpus, SemanticIds, SidTable, load_corpus, load_sids, write_artifact
from dasrec.core.corpus import Impressions, save_corpus_payload
from dasrec.core.semantic_ids import save_sids_payload

LEVELS = (6, 5, 4)


def write_corpus(
    path: Path,
    user: np.ndarray,
    item: np.ndarray,
    time: np.ndarray,
    label: np.ndarray,
    split: np.ndarray,
    sizes: tuple[int, int],
    *,
    impressions: bool,
    config: dict[str, object] | None = None,
) -> Corpus:
    """A corpus of exposures sorted by (user, time); the clicked ones are its interactions."""
    num_users, num_items = sizes
    click = label > 0
    # interactions before the row, of all users: a global row
    before: npt.NDArray[np.int64] = np.cumsum(click) - click
    exposures = Impressions(
        user.astype(np.int32),
        item.astype(np.int32),
        time.astype(np.int64),
        label.astype(np.float32),
        split.astype(np.int8),
        before.astype(np.int64),
    )
    users = pl.DataFrame(
        {
            "user_id": [f"u{u}" for u in range(num_users)],
            "age": np.arange(num_users) % 3,
            "nick": [f"n{u}" for u in range(num_users)],
        }
    )
    items = pl.DataFrame(
        {
            "item_id": [f"i{i}" for i in range(num_items)],
            "title": [f"title {i}" for i in range(num_items)],
            "brand": [None if i % 5 == 0 else f"b{i % 4}" for i in range(num_items)],
            "brand_name": [None if i % 5 == 0 else f"Brand {9 - i % 4}" for i in range(num_items)],
        }
    )

    def payload(scratch: Path) -> None:
        save_corpus_payload(
            scratch,
            user_idx=exposures.user_idx[click],
            item_idx=exposures.item_idx[click],
            timestamp=exposures.timestamp[click],
            split=exposures.split[click],
            users=users,
            items=items,
            impressions=exposures if impressions else None,
        )

    write_artifact(path, "corpus", config or {}, {}, payload)
    return load_corpus(path)


def write_sids(path: Path, corpus: Corpus, codes: np.ndarray, users: bool = True) -> SemanticIds:
    """Semantic IDs with random codebooks; user codes are random."""
    rng = np.random.default_rng(5)
    books = tuple(rng.normal(size=(size, 8)).astype(np.float32) for size in LEVELS)

    def table(values: np.ndarray) -> SidTable:
        vectors = sum(book[values[:, level]] for level, book in enumerate(books))
        return SidTable(values.astype(np.uint16), LEVELS, np.asarray(vectors), books)

    user_codes = np.stack([rng.integers(0, k, corpus.num_users) for k in LEVELS], axis=1)

    def payload(scratch: Path) -> None:
        save_sids_payload(scratch, table(codes), table(user_codes) if users else None)

    write_artifact(path, "semantic_ids", {}, {"corpus": corpus.manifest}, payload)
    return load_sids(path, corpus.manifest)


class World:
    """Users who click what shares its first code with their tastes, and nothing else."""

    def __init__(
        self, path: Path, *, num_users: int, num_items: int, rows_each: int, impressions: bool
    ) -> None:
        rng = np.random.default_rng(0)
        codes = np.stack([rng.integers(0, k, num_items) for k in LEVELS], axis=1)
        likes = np.argsort(rng.random((num_users, LEVELS[0])), axis=1)[:, :2]
        user = np.repeat(np.arange(num_users), rows_each)
        item = np.concatenate(
            [rng.permutation(num_items)[:rows_each] for _ in range(num_users)]
        )  # no item twice
        liked = (codes[item, :1] == likes[user]).any(1)
        label = rng.random(len(user)) < np.where(liked, 0.9, 0.1)
        time = np.tile(np.arange(rows_each), num_users)
        split = np.digitize(time, [rows_each * 0.6, rows_each * 0.75])
        self.log = (user, item, time, label.astype(np.float32), split)
        self.sizes = (num_users, num_items)
        self.codes, self.path = codes, path
        self.corpus = write_corpus(path / "corpus", *self.log, self.sizes, impressions=impressions)
        self.sids = write_sids(path / "sids", self.corpus, codes)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(
        tmp_path_factory.mktemp("small"), num_users=30, num_items=60, rows_each=30, impressions=True
    )


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(
        tmp_path_factory.mktemp("planted"),
        num_users=250,
        num_items=3000,
        rows_each=60,
        impressions=True,
    )


@pytest.fixture(scope="session")
def implicit(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(
        tmp_path_factory.mktemp("implicit"),
        num_users=60,
        num_items=120,
        rows_each=40,
        impressions=False,
    )


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[..., Corpus]:
    def make(*args: object, name: str = "corpus", **kwargs: object) -> Corpus:
        return write_corpus(tmp_path / name, *args, **kwargs)  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_sids(tmp_path: Path) -> Callable[..., SemanticIds]:
    def make(*args: object, name: str = "sids", **kwargs: object) -> SemanticIds:
        return write_sids(tmp_path / name, *args, **kwargs)  # type: ignore[arg-type]

    return make
