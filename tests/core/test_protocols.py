"""Every protocol on one hand-made log: ties, repeats and a user with a single event."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from dasrec.core import Corpus, PrepareConfig, build_config, prepare
from dasrec.core.split import split_sliding_window

INDUSTRIAL = Path(__file__).parents[3] / "shared" / "data" / "minionerec_industrial_2018"

# (user, item, day), in the order of the file
LOG = [
    ("a", "p", 1),
    ("a", "q", 2),
    ("a", "p", 2),  # a tie, and the item of day 1 again
    ("a", "r", 6),
    ("b", "q", 3),  # her only event
    ("c", "s", 7),  # starts late, two ties
    ("c", "t", 7),
    ("d", "q", 1),
    ("d", "q", 4),  # the same item twice, and the row itself twice
    ("d", "q", 4),
    ("d", "p", 5),
    ("d", "t", 5),
]


def make(folder: Path, split: dict[str, Any], **values: Any) -> Corpus:
    columns = ("user_id", "item_id", "day")
    table = pl.DataFrame(LOG, schema=columns, orient="row")
    table = table.with_columns(timestamp=pl.col("day") * 86_400).drop("day")
    table.write_parquet(folder / "interactions.parquet")
    config = build_config(PrepareConfig, {"split": split, **values}, "test")
    return prepare(config, folder, folder / "corpus", replace=True)


def parts(corpus: Corpus) -> dict[str, str]:
    """user -> items in order, each with the first letter of its split: "p0 q1 ..."."""
    items = corpus.items["item_id"].to_list()
    rows: dict[str, list[str]] = {user: [] for user in sorted(corpus.users["user_id"])}
    for user, item, split in zip(corpus.user_idx, corpus.item_idx, corpus.split, strict=True):
        rows[corpus.users["user_id"][int(user)]].append(f"{items[item]}{split}")
    return {user: " ".join(row) for user, row in rows.items()}


def queries(corpus: Corpus, split: Any) -> list[str]:
    found = [corpus.users["user_id"][int(u)] for u in corpus.user_idx[corpus.queries(split)]]
    return sorted(found)


def test_leave_one_out(tmp_path: Path) -> None:
    corpus = make(tmp_path, {"method": "leave_one_out"})
    # two events are too few to hold any out; ties keep the order of the file
    assert parts(corpus) == {
        "a": "p0 q0 p1 r2",
        "b": "q0",
        "c": "s0 t0",
        "d": "q0 q0 p1 t2",
    }
    assert queries(corpus, "test") == ["a", "d"]
    assert corpus.train_repeats  # d's q: lists may hold what was had, see ExcludeSeen
    assert corpus.excludes_seen("as_in_training") is False


def test_global_time(tmp_path: Path) -> None:
    split = {"method": "global_time", "valid_from": "1970-01-05", "test_from": "1970-01-07"}
    corpus = make(tmp_path, split)
    assert parts(corpus) == {
        "a": "p0 q0 p0 r2",
        "b": "q0",
        "c": "s2 t2",
        "d": "q0 q1 p1 t1",
    }
    # nobody asks for a user's first event
    assert queries(corpus, "test") == ["a", "c"]
    assert queries(corpus, "valid") == ["d", "d", "d"]


def test_a_fraction_never_splits_a_tie(tmp_path: Path) -> None:
    # 11 rows by day: 1 1 2 2 3 4 5 5 6 7 7; the row at int(.65 * 11) = 7 is one of day 5
    split = {"method": "global_time", "valid_from": 0.65, "test_from": 0.95}
    assert parts(make(tmp_path, split))["d"] == "q0 q0 p1 t1"


def test_sliding_window(tmp_path: Path) -> None:
    split = {"method": "sliding_window", "valid_from": 0.8, "test_from": 0.9}
    corpus = make(tmp_path, split)
    # 7 targets by day: 2 2 4 5 5 | 6 | 7, for int(5.6) and int(6.3)
    assert parts(corpus) == {
        "a": "p0 q0 p0 r1",
        "b": "q0",
        "c": "s2 t2",
        "d": "q0 q0 p0 t0",
    }
    assert (queries(corpus, "valid"), queries(corpus, "test")) == (["a"], ["c"])
    labelled = {"columns": {"label": "user_id"}, "path": "interactions.parquet"}
    with pytest.raises(ValueError, match=r"sliding_window .* has no rule for impressions"):
        make(tmp_path, split, interactions=labelled, positive_label=1)


def test_repeated_rows_are_one_event_unless_kept(tmp_path: Path) -> None:
    assert parts(make(tmp_path, {}, duplicates="keep"))["d"] == "q0 q0 q0 p1 t2"


def test_cold_items_are_in_no_training_event_and_in_all_others(tmp_path: Path) -> None:
    plain = parts(make(tmp_path, {"method": "leave_one_out"}))
    corpus = make(tmp_path, {"method": "leave_one_out", "cold_items": 0.4})
    names = corpus.items["item_id"].to_list()
    train = {names[item] for item in corpus.item_idx[corpus.train_rows]}
    cold = {event[0] for row in plain.values() for event in row.split() if event[1] == "0"} - train
    assert len(cold) in (1, 2)  # two of five were drawn; one may have had no training event
    for user, row in parts(corpus).items():
        kept = [e for e in plain[user].split() if e[1] != "0" or e[0] not in cold]
        assert row == " ".join(kept)


@pytest.mark.skipif(not INDUSTRIAL.exists(), reason="the data set is not here")
def test_sliding_window_is_the_published_split_of_minionerec() -> None:
    log = pl.read_parquet(INDUSTRIAL / "interactions.parquet").sort("user_id", "pos")
    user = np.unique(log["user_id"].to_numpy(), return_inverse=True)[1]
    start = np.searchsorted(user, np.arange(user.max() + 2))
    published = log["role"].replace_strict({"train": 0, "valid": 1, "test": 2}).to_numpy()
    target = np.ones(len(log), np.bool_)
    target[start[:-1]] = False
    # of the published training rows 13 % are missing, so the cuts are at the published numbers
    train, valid, test = np.bincount(published[target])
    assert (valid, test) == (4532, 4533)
    shares = np.array([train + 0.5, train + valid + 0.5]) / target.sum()
    time = log["timestamp"].to_numpy()
    split = split_sliding_window(user, time, start, *shares.tolist())
    wrong = target & (split != published)
    assert wrong.sum() < 20
    borders = [time[target & (published == part)].min() for part in (1, 2)]
    assert np.isin(time[wrong], borders).all()  # the order of a tie at a cut is anyone's guess
