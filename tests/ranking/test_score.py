"""Batch scoring against asking the ranker row by row; time, order, unknown ids, refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from dasrec.core.config import build_config
from dasrec.ranking import Ranker, RankingConfig, load_ranker, train_ranker
from dasrec.ranking.score import HistoryEnds, score_table


@pytest.fixture(scope="module")
def ranker(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Ranker:
    out: Path = tmp_path_factory.mktemp("score") / "ranker"
    values = {
        "epochs": 1,
        "model": {"embedding_dim": 4, "hidden_dims": [8]},
        "features": {"hash_size": 64, "max_history": 10, "time_of_day": True},
    }
    train_ranker(build_config(RankingConfig, values, "test"), small.corpus, small.sids, out)
    return load_ranker(out, small.corpus, small.sids)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    table = pl.DataFrame(
        {
            "item_id": [f"i{i}" for i in rng.integers(0, 60, 200)],
            "user_id": [f"u{u}" for u in rng.integers(0, 30, 200)],
            "timestamp": rng.integers(0, 31, 200),
            "note": [str(row) for row in range(200)],
        }
    )
    table.write_parquet(tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def test_history_is_what_lies_strictly_before(make_corpus: Any) -> None:
    # One user's events are not in the order of their times; three of them share one.
    user = np.array([0, 0, 0, 0, 1, 1, 1])
    time = np.array([5, 9, 7, 12, 5, 5, 5])
    label, split = np.ones(7, np.float32), np.zeros(7, np.int64)
    corpus = make_corpus(user, user, time, label, split, (3, 2), impressions=False)
    ends = HistoryEnds(corpus)
    asked = [(0, 5, 0), (0, 6, 1), (0, 9, 1), (0, 10, 3), (0, 13, 4), (0, 0, 0)]
    asked += [(1, 5, 4), (1, 6, 7), (1, 99, 7), (2, 50, 7), (3, 50, 7)]  # 3 is unknown
    users, times, expected = (np.array(column) for column in zip(*asked, strict=True))
    assert ends.before(users, times).tolist() == expected.tolist()
    assert ends.latest(np.arange(4)).tolist() == [4, 7, 7, 7]


@pytest.mark.parametrize("batch_rows", [65_536, 7])
def test_scores_are_those_of_single_rows_in_order(
    ranker: Ranker, small: Any, rows: Path, tmp_path: Path, batch_rows: int
) -> None:
    out = tmp_path / "scored.parquet"
    counts = score_table(ranker, small.corpus, rows, out, batch_rows=batch_rows)
    assert counts[:3] == (200, 0, 0)
    before, got = pl.read_parquet(rows), pl.read_parquet(out)
    assert got.drop("logit", "probability").equals(before)
    corpus = small.corpus
    for row in range(0, 200, 9):
        user, item = int(got["user_id"][row][1:]), int(got["item_id"][row][1:])
        own = range(corpus.user_start[user], corpus.user_start[user + 1])
        end = own.start + sum(corpus.timestamp[e] < got["timestamp"][row] for e in own)
        one = (np.array([user]), np.array([item]), np.array([end]))
        logit = ranker.score(*one, context=got[row].select("timestamp"))
        assert got["logit"][row] == pytest.approx(logit[0], abs=1e-5)
        assert got["probability"][row] == pytest.approx(ranker.probability(logit)[0], abs=1e-6)


def test_without_timestamps_all_that_is_known_counts(
    ranker: Ranker, small: Any, rows: Path, tmp_path: Path
) -> None:
    table = pl.read_parquet(rows)
    table.drop("timestamp").write_parquet(tmp_path / "latest.parquet")
    table.with_columns(timestamp=pl.lit(10**6)).write_parquet(tmp_path / "late.parquet")
    score_table(ranker, small.corpus, tmp_path / "latest.parquet", tmp_path / "a.parquet")
    latest = pl.read_parquet(tmp_path / "a.parquet")
    users = np.array([int(user[1:]) for user in latest["user_id"]])
    items = np.array([int(item[1:]) for item in latest["item_id"]])
    ends = np.asarray(small.corpus.user_start)[users + 1]
    none = pl.DataFrame({"timestamp": [None] * 200}, schema={"timestamp": pl.Int64})
    expected = ranker.score(users, items, ends, context=none)
    np.testing.assert_allclose(latest["logit"].to_numpy(), expected, atol=1e-5)


def test_unknown_users_and_items_are_cold_or_refused(
    ranker: Ranker, small: Any, rows: Path, tmp_path: Path
) -> None:
    table = pl.read_parquet(rows).with_columns(
        user_id=pl.when(pl.col("note").is_in(["3", "4"])).then(pl.lit("new")).otherwise("user_id"),
        item_id=pl.when(pl.col("note").is_in(["4", "5"])).then(pl.lit("new")).otherwise("item_id"),
    )
    table.write_parquet(rows)
    out = tmp_path / "scored.parquet"
    with pytest.raises(ValueError, match=r"row 4: user_id 'new' is not in the corpus"):
        score_table(ranker, small.corpus, rows, out, batch_rows=2)
    assert not out.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.parquet"]  # no scratch either
    counts = score_table(ranker, small.corpus, rows, out, allow_unknown=True)
    assert counts[:3] == (200, 2, 2)
    got = pl.read_parquet(out)
    assert got["logit"].is_finite().all()
    # of two unknown users nothing is known, so their rows differ by item only
    again = got[3].with_columns(user_id=pl.lit("somebody")).drop("logit", "probability")
    again.write_parquet(rows)
    score_table(ranker, small.corpus, rows, out, allow_unknown=True)
    assert pl.read_parquet(out)["logit"][0] == pytest.approx(got["logit"][3], abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop("item_id"), "no column 'item_id'"),
        (lambda t: t.with_columns(logit=0.0), "has a column 'logit'"),
        (lambda t: t.with_columns(user_id=pl.lit(None, pl.String)), "column 'user_id': no id"),
        (lambda t: t.with_columns(timestamp=pl.lit("noon")), "not a time"),
    ],
)
def test_refusals(
    ranker: Ranker, small: Any, rows: Path, tmp_path: Path, change: Any, message: str
) -> None:
    change(pl.read_parquet(rows)).write_parquet(rows)
    with pytest.raises(ValueError, match=message):
        score_table(ranker, small.corpus, rows, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_files_that_are_not_there_or_no_parquet(
    ranker: Ranker, small: Any, rows: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.parquet: no such file"):
        score_table(ranker, small.corpus, tmp_path / "none.parquet", tmp_path / "out.parquet")
    with pytest.raises(FileNotFoundError, match=r"there: no such folder to write out\.parquet to"):
        score_table(ranker, small.corpus, rows, tmp_path / "there" / "out.parquet")
    rows.write_text("user_id,item_id\nu1,i1\n")
    with pytest.raises(ValueError, match=r"rows\.parquet: not a Parquet file"):
        score_table(ranker, small.corpus, rows, tmp_path / "out.parquet")
