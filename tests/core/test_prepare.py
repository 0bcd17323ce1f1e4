"""The prepare stage against hand-made logs and a brute-force oracle."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dasrec.core import Corpus, PrepareConfig, build_config, describe_raw, load_corpus, prepare
from dasrec.core.artifacts import recipe_digest

DATA = Path(__file__).parents[3] / "shared" / "data"

DAY = 86_400
# user a: four events, a tie and a repeat; b: one event; c: three; item z is in no event
LOG: list[dict[str, Any]] = [
    {"user_id": "c", "item_id": "w", "timestamp": 3 * DAY, "rating": 5},
    {"user_id": "a", "item_id": "x", "timestamp": 2 * DAY, "rating": 4},
    {"user_id": "a", "item_id": "w", "timestamp": 1 * DAY, "rating": 5},
    {"user_id": "b", "item_id": "y", "timestamp": 4 * DAY, "rating": 4},
    {"user_id": "a", "item_id": "v", "timestamp": 2 * DAY, "rating": 4},
    {"user_id": "c", "item_id": "x", "timestamp": 1 * DAY, "rating": 4},
    {"user_id": "a", "item_id": "x", "timestamp": 2 * DAY, "rating": 4},
    {"user_id": "c", "item_id": "y", "timestamp": 2 * DAY, "rating": 4},
    {"user_id": "a", "item_id": "y", "timestamp": 5 * DAY, "rating": 4},
]
ITEMS = [{"item_id": i, "title": f"title of {i}", "price": float(n)} for n, i in enumerate("vwxyz")]
USERS = [{"user_id": u, "age": 20 + n} for n, u in enumerate("abcd")]


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(folder / f"{name}.parquet")


def run(
    folder: Path,
    values: dict[str, Any] | None = None,
    log: list[dict[str, Any]] | None = None,
    items: list[dict[str, Any]] | None = ITEMS,
    users: list[dict[str, Any]] | None = USERS,
    seed: int = 0,
) -> Corpus:
    tables = {"interactions": LOG if log is None else log, "items": items, "users": users}
    values = dict(values or {})
    for name, rows in tables.items():
        if rows is not None:
            write(folder / "raw", name, rows)
            values.setdefault(name, {"path": f"{name}.parquet"})
    config = build_config(PrepareConfig, values, "test: prepare")
    return prepare(config, folder / "raw", folder / "corpus", seed=seed, replace=True)


def sequences(corpus: Corpus) -> dict[str, list[tuple[str, int, int]]]:
    """user_id -> (item_id, timestamp, split) in order."""
    users, items = corpus.users["user_id"].to_list(), corpus.items["item_id"].to_list()
    rows: dict[str, list[tuple[str, int, int]]] = {user: [] for user in users}
    for u, i, t, s in zip(
        corpus.user_idx, corpus.item_idx, corpus.timestamp, corpus.split, strict=True
    ):
        rows[users[u]].append((items[i], int(t), int(s)))
    return rows


def test_a_log_by_hand(tmp_path: Path) -> None:
    corpus = run(tmp_path)
    assert sequences(corpus) == {
        # x before v on day 2: the order of the file; the second x of day 2 is a repeat
        "a": [("w", DAY, 0), ("x", 2 * DAY, 0), ("v", 2 * DAY, 1), ("y", 5 * DAY, 2)],
        "b": [("y", 4 * DAY, 0)],
        "c": [("x", DAY, 0), ("y", 2 * DAY, 1), ("w", 3 * DAY, 2)],
    }
    assert corpus.num_users == 3
    assert corpus.num_items == 5
    assert corpus.impressions is None
    metrics = corpus.manifest.metrics
    # z has no event, v only a valid one
    assert {k: metrics[k] for k in ("users", "items", "interactions", "cold_items")} == {
        "users": 3,
        "items": 5,
        "interactions": 8,
        "cold_items": int((corpus.train_item_count == 0).sum()),
    }
    assert metrics["cold_items"] == 2
    assert metrics["queries"] == {s: len(corpus.queries(s)) for s in ("valid", "test")}
    assert metrics["same_day_share"] == {
        s: 1 - corpus.tie_free(corpus.queries(s)).mean() for s in ("valid", "test")
    }
    assert metrics["same_day_share"] == {"valid": 0.5, "test": 0.0}
    assert metrics["dropped"] == {
        "unknown_user_id": 0,
        "unknown_item_id": 0,
        "duplicates": 1,
        "k_core": 0,
    }


def test_arrays_are_memory_mapped_and_the_tables_aligned(tmp_path: Path) -> None:
    corpus = load_corpus(run(tmp_path).path)
    for array in (corpus.user_idx, corpus.item_idx, corpus.timestamp, corpus.split):
        assert isinstance(array, np.memmap)
    assert corpus.items.columns == ["item_id", "source_row", "title", "price"]
    for row in corpus.items.rows(named=True):
        source = ITEMS[row["source_row"]]
        assert {k: row[k] for k in source} == source
    for row in corpus.users.rows(named=True):
        assert row["age"] == USERS[row["source_row"]]["age"]


def test_repeats_can_be_kept(tmp_path: Path) -> None:
    assert [i for i, *_ in sequences(run(tmp_path, {"duplicates": "keep"}))["a"]] == list("wxvxy")


def test_without_tables_the_catalogue_is_the_log(tmp_path: Path) -> None:
    corpus = run(tmp_path, items=None, users=None)
    assert sorted(corpus.items["item_id"]) == ["v", "w", "x", "y"]
    assert corpus.items["source_row"].to_list() == [-1] * 4
    assert corpus.users["source_row"].to_list() == [-1] * 3


def test_seen_leaves_unused_items_out(tmp_path: Path) -> None:
    corpus = run(tmp_path, {"catalogue": "seen"})
    assert sorted(corpus.items["item_id"]) == ["v", "w", "x", "y"]
    assert corpus.items.sort("item_id")["source_row"].to_list() == [0, 1, 2, 3]


def test_k_core_numbers(tmp_path: Path) -> None:
    corpus = run(tmp_path, {"min_user_interactions": 2, "min_item_interactions": 2})
    # v has one event, b has one; then every item and user has two
    assert {u: [i for i, *_ in s] for u, s in sequences(corpus).items()} == {
        "a": ["w", "x", "y"],
        "c": ["x", "y", "w"],
    }
    assert corpus.manifest.metrics["dropped"]["k_core"] == 2
    assert corpus.num_items == 5  # catalogue: all
    bare = run(tmp_path / "bare", {"min_item_interactions": 2}, items=None)
    assert sorted(bare.items["item_id"]) == ["w", "x", "y"]  # what the k-core removed is gone


def test_the_order_column_wins_over_the_timestamp(tmp_path: Path) -> None:
    log = [row | {"pos": n} for n, row in enumerate(LOG)]
    columns = {"order": "pos"}
    corpus = run(
        tmp_path, {"interactions": {"path": "interactions.parquet", "columns": columns}}, log
    )
    assert [i for i, *_ in sequences(corpus)["a"]] == ["x", "w", "v", "y"]
    assert [i for i, *_ in sequences(corpus)["c"]] == ["w", "x", "y"]


def test_milliseconds_order_events_of_one_second(tmp_path: Path) -> None:
    log = [{"user_id": "a", "item_id": i, "timestamp": t} for i, t in (("x", 1900), ("w", 1100))]
    values = {"interactions": {"path": "interactions.parquet", "time": "milliseconds"}}
    assert sequences(run(tmp_path, values, log))["a"] == [("w", 1, 0), ("x", 1, 0)]


def test_a_published_split_column(tmp_path: Path) -> None:
    role = {1: "train", 2: "train", 3: "valid", 4: "test", 5: "test"}
    log = [row | {"role": role[row["timestamp"] // DAY]} for row in LOG]
    table = {"path": "interactions.parquet", "columns": {"split": "role"}}
    corpus = run(tmp_path, {"interactions": table, "split": {"method": "column"}}, log)
    assert sequences(corpus)["c"] == [("x", DAY, 0), ("y", 2 * DAY, 0), ("w", 3 * DAY, 1)]
    with pytest.raises(ValueError, match=r"row 1, column 'role': not one of train, valid, test"):
        run(
            tmp_path,
            {"interactions": table, "split": {"method": "column"}},
            [row | {"role": "x"} for row in LOG],
        )
    with pytest.raises(ValueError, match="belong together"):
        run(tmp_path, {"interactions": table}, log)


# --- numbering -------------------------------------------------------------------------------


def test_numbering_is_independent_of_the_order_of_the_files(tmp_path: Path) -> None:
    log = [row | {"pos": n} for n, row in enumerate(LOG)]  # pins the order within users
    values = {"interactions": {"path": "interactions.parquet", "columns": {"order": "pos"}}}
    one = run(tmp_path / "1", values, log)
    rng = np.random.default_rng(0)
    for _ in range(3):
        two = run(
            tmp_path / "2",
            values,
            [log[i] for i in rng.permutation(len(log))],
            [ITEMS[i] for i in rng.permutation(len(ITEMS))],
            [USERS[i] for i in rng.permutation(len(USERS))],
        )
        assert two.items.drop("source_row").equals(one.items.drop("source_row"))
        assert two.users.drop("source_row").equals(one.users.drop("source_row"))
        assert (two.item_idx == one.item_idx).all()


def test_the_index_says_nothing_about_the_id(tmp_path: Path) -> None:
    # ids in alphabetical order, as in Amazon's files
    log = [{"user_id": f"{n:04}", "item_id": f"{n:04}", "timestamp": n} for n in range(2000)]
    corpus = run(tmp_path, log=log, items=None, users=None)
    for table, key in ((corpus.items, "item_id"), (corpus.users, "user_id")):
        place = table[key].cast(pl.Int64).to_numpy()
        assert abs(np.corrcoef(place, np.arange(2000))[0, 1]) < 4 / np.sqrt(2000)
    other = run(tmp_path, log=log, items=None, users=None, seed=1)
    assert other.items["item_id"].to_list() != corpus.items["item_id"].to_list()


def test_same_inputs_same_fingerprint(tmp_path: Path) -> None:
    values = {"positive_label": 5.0, "interactions": LABELLED}
    one, two = run(tmp_path / "1", values), run(tmp_path / "2", values)
    assert one.manifest.fingerprint == two.manifest.fingerprint
    assert run(tmp_path / "3", values, seed=1).manifest.fingerprint != one.manifest.fingerprint


def test_the_pipeline_can_foretell_the_recipe(tmp_path: Path) -> None:
    corpus = run(tmp_path)
    tables = {name: {"path": f"{name}.parquet"} for name in ("interactions", "items", "users")}
    config = build_config(PrepareConfig, tables, "f")
    raw = describe_raw(config, tmp_path / "raw")
    assert (raw.kind, sorted(raw.files)) == ("raw", sorted(f"{t}.parquet" for t in tables))
    assert corpus.manifest.recipe == recipe_digest(
        "corpus", config.as_json(), {"raw": raw.fingerprint}, 0
    )
    write(tmp_path / "raw", "users", USERS[:3])
    assert describe_raw(config, tmp_path / "raw").fingerprint != raw.fingerprint


def test_an_existing_artifact_is_not_overwritten(tmp_path: Path) -> None:
    before = run(tmp_path).manifest
    config = PrepareConfig()
    with pytest.raises(FileExistsError, match="choose another folder"):
        prepare(config, tmp_path / "raw", tmp_path / "corpus")
    assert load_corpus(tmp_path / "corpus").manifest == before


# --- every format ----------------------------------------------------------------------------


def as_csv(rows: list[dict[str, Any]], separator: str) -> bytes:
    lines = [separator.join(rows[0]), *(separator.join(map(str, r.values())) for r in rows)]
    return ("\n".join(lines) + "\n").encode()


FORMATS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "csv": lambda rows: as_csv(rows, ","),
    "tsv": lambda rows: as_csv(rows, "\t"),
    "jsonl": lambda rows: "".join(json.dumps(r) + "\n" for r in rows).encode(),
}


@pytest.mark.parametrize("suffix", [*FORMATS, *(f"{name}.gz" for name in FORMATS)])
def test_every_format_gives_the_same_corpus(tmp_path: Path, suffix: str) -> None:
    parquet = run(tmp_path / "parquet")
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, rows in (("interactions", LOG), ("items", ITEMS), ("users", USERS)):
        content = FORMATS[suffix.removesuffix(".gz")](rows)
        (raw / f"{name}.{suffix}").write_bytes(
            gzip.compress(content) if suffix.endswith(".gz") else content
        )
    values = {name: {"path": f"{name}.{suffix}"} for name in ("interactions", "items", "users")}
    corpus = prepare(build_config(PrepareConfig, values, "f"), raw, tmp_path / "corpus")
    assert corpus.manifest.files == parquet.manifest.files


# --- impressions -----------------------------------------------------------------------------

LABELLED = {"path": "interactions.parquet", "columns": {"label": "rating"}}


class Row(NamedTuple):
    user: str
    item: str
    time: int
    positive: bool


def expected_impressions(
    rows: list[Row], split: dict[str, Any]
) -> list[tuple[str, str, int, float, int, int]]:
    """(user, item, time, label, split, length of history), row by row from the definitions."""
    result = []
    positives = {u: sorted(r.time for r in rows if r.user == u and r.positive) for u, *_ in rows}
    for row in rows:
        past = positives[row.user]
        if not past:
            continue  # a user without interactions is not in the corpus
        part = 0
        if split["method"] == "leave_one_out":
            if len(past) >= 3:
                part = int(row.time >= past[-2]) + int(row.time >= past[-1])
        else:
            part = int(row.time >= split["valid"]) + int(row.time >= split["test"])
        history = sum(t < row.time for t in past)
        result.append((row.user, row.item, row.time, float(row.positive), part, history))
    return sorted(result)


@pytest.mark.parametrize("method", ["leave_one_out", "global_time"])
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.builds(
            Row,
            st.sampled_from("abc"),
            st.sampled_from("vwxyz"),
            st.integers(0, 6).map(lambda day: day * DAY),
            st.booleans(),
        ),
        min_size=1,
        max_size=25,
    )
)
def test_impressions_against_brute_force(tmp_path: Path, method: str, rows: list[Row]) -> None:
    rows = [Row("a", "z", 3 * DAY, True), *rows]
    log = [{"user_id": u, "item_id": i, "timestamp": t, "rating": 1 + 4 * p} for u, i, t, p in rows]
    values: dict[str, Any] = {
        "interactions": LABELLED,
        "positive_label": 4,
        "duplicates": "keep",
        "split": {"method": method},
    }
    split = {"method": method, "valid": 3 * DAY, "test": 5 * DAY}
    if method == "global_time":
        values["split"] |= {"valid_from": "1970-01-04", "test_from": "1970-01-06"}
    corpus = run(tmp_path, values, log, users=None)
    found = corpus.impressions
    assert found is not None
    users, items = corpus.users["user_id"], corpus.items["item_id"]
    start = corpus.user_start[found.user_idx]
    assert sorted(
        zip(
            (users[int(u)] for u in found.user_idx),
            (items[int(i)] for i in found.item_idx),
            found.timestamp.tolist(),
            found.label.tolist(),
            found.split.tolist(),
            (found.history_end - start).tolist(),
            strict=True,
        )
    ) == expected_impressions(rows, split)
    place = found.user_idx.astype(np.int64) * 10 * DAY + found.timestamp
    assert (np.diff(place) >= 0).all()
    # histories hold strictly earlier events of the same user only
    for m, end in enumerate(found.history_end):
        assert (corpus.timestamp[start[m] : end] < found.timestamp[m]).all()
        assert (corpus.user_idx[start[m] : end] == found.user_idx[m]).all()


def test_impressions_follow_the_order_column(tmp_path: Path) -> None:
    # all of one moment: only the order column tells what came before
    log = [
        {"user_id": "a", "item_id": i, "timestamp": 7, "pos": pos, "click": click}
        for pos, (i, click) in enumerate([("v", 1), ("w", 0), ("x", 1), ("y", 1), ("z", 0)])
    ]
    table = {"path": "interactions.parquet", "columns": {"order": "pos", "label": "click"}}
    corpus = run(tmp_path, {"interactions": table, "positive_label": 1.0}, log[::-1])
    found = corpus.impressions
    assert found is not None
    assert found.history_end.tolist() == [0, 1, 1, 2, 3]
    assert found.split.tolist() == [0, 0, 1, 2, 2]
    assert found.label.tolist() == [1, 0, 1, 1, 0]


def test_impressions_of_users_and_items_that_left_are_dropped(tmp_path: Path) -> None:
    values = {"interactions": LABELLED, "positive_label": 5.0, "catalogue": "seen"}
    corpus = run(tmp_path, values)
    assert sequences(corpus) == {"a": [("w", DAY, 0)], "c": [("w", 3 * DAY, 0)]}
    assert corpus.impressions is not None
    assert len(corpus.impressions.label) == 2  # every other row is of another item
    assert corpus.manifest.metrics["dropped"]["impressions"] == 6
    everything = run(tmp_path, values | {"catalogue": "all"})
    assert everything.impressions is not None
    assert len(everything.impressions.label) == 7  # all but that of b, who has no interaction


# --- faults ----------------------------------------------------------------------------------


def changed(row: int, **values: Any) -> list[dict[str, Any]]:
    return [r | values if n == row else r for n, r in enumerate(LOG)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"log": changed(2, item_id="q")},
            r"interactions.parquet: row 3, column 'item_id': not in items.parquet, got 'q'; .*drop",
        ),
        (
            {"log": changed(0, user_id="q")},
            r"interactions.parquet: row 1, column 'user_id': not in users.parquet, got 'q'; ",
        ),
        (
            {"log": changed(4, user_id=None)},
            r"interactions.parquet: row 5, column 'user_id': no id",
        ),
        ({"log": changed(4, timestamp=None)}, r"row 5, column 'timestamp': not a time \(seconds\)"),
        (
            {"log": changed(1, rating=None), "labelled": True},
            r"interactions.parquet: row 2, column 'rating': not a number, got None",
        ),
        (
            {"log": changed(1, rating=float("nan")), "labelled": True},
            r"interactions.parquet: row 2, column 'rating': not a number, got nan",
        ),
        (
            {"items": [*ITEMS, ITEMS[1]]},
            r"items.parquet: row 6, column 'item_id': the id of row 2 again, got 'w'; ",
        ),
        (
            {"users": [*USERS, {"user_id": None, "age": 1}]},
            r"users.parquet: row 5, column 'user_id': no id, got None",
        ),
        (
            {"items": [{"asin": "v"}]},
            r"items.parquet: no column 'item_id'; it has: asin",
        ),
        (
            {"log": [{"user": "a", "item_id": "v", "timestamp": 1}]},
            r"interactions.parquet: no column 'user_id'; did you mean 'user'",
        ),
        ({"values": {"min_user_interactions": 9}}, r"no interactions are left of 8 rows \(8 posi"),
        (
            {"values": {"positive_label": 6.0}, "labelled": True},
            r"no interactions are left of 8 rows \(0 positive\)",
        ),
        ({"values": {"positive_label": 4.0}}, "positive_label and interactions.columns.label bel"),
        (
            {"values": {"interactions": {"path": "x", "columns": {"titel": "t"}}}},
            "interactions.columns: known are user_id, .* got titel",
        ),
        ({"values": {"preset": "netflix"}}, "preset must be one of amazon_2014, .* got 'netflix'"),
    ],
)
def test_faults_name_file_row_and_column(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    values = change.pop("values", {})
    if change.pop("labelled", False):
        values = {"positive_label": 5.0} | values | {"interactions": LABELLED}
    with pytest.raises(ValueError, match=message):
        run(tmp_path, values, **change)
    assert not (tmp_path / "corpus").exists()


def test_unknown_and_repeated_ids_can_be_dropped(tmp_path: Path) -> None:
    items = [*ITEMS[:4], ITEMS[0] | {"title": "other"}]  # no z, v twice
    log = changed(0, item_id="z")
    values = {"unknown_ids": "drop", "repeated_ids": "first"}
    corpus = run(tmp_path, values, log, items)
    assert [i for i, *_ in sequences(corpus)["c"]] == ["x", "y"]
    assert corpus.manifest.metrics["dropped"]["unknown_item_id"] == 1
    assert corpus.items.sort("item_id")["title"][0] == "title of v"


# --- real data -------------------------------------------------------------------------------


@pytest.mark.skipif(not (DATA / "amazon_beauty_2014").exists(), reason="real data not here")
def test_amazon_beauty_has_the_published_size(tmp_path: Path) -> None:
    values = {
        "interactions": {"path": "interactions.parquet", "columns": {"order": "pos"}},
        "items": {"path": "items.parquet"},
        "users": {"path": "users.parquet"},
    }
    config = build_config(PrepareConfig, values, "f")
    corpus = prepare(config, DATA / "amazon_beauty_2014", tmp_path / "corpus")
    assert (corpus.num_users, corpus.num_items) == (22_363, 12_101)
    assert len(corpus.user_idx) == 198_502
    assert len(corpus.queries("test")) == len(corpus.queries("valid")) == 22_363
    raw = pl.read_parquet(DATA / "amazon_beauty_2014" / "interactions.parquet")
    last = raw.sort("user_id", "pos").group_by("user_id").last().sort("user_id")
    rows = corpus.queries("test")
    found = pl.DataFrame(
        {
            "user_id": corpus.users["user_id"].gather(corpus.user_idx[rows]),
            "item_id": corpus.items["item_id"].gather(corpus.item_idx[rows]),
        }
    ).sort("user_id")
    assert found.equals(last.select("user_id", "item_id"))


@pytest.mark.parametrize(("duplicates", "told"), [("keep", "2 of 7 impressions"), ("drop", "")])
def test_copies_that_give_their_label_away_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, duplicates: str, told: str
) -> None:
    # x is there three times in one second and clicked, y twice and not, w at two moments
    events = [("x", 5, 1), ("x", 5, 1), ("x", 5, 1), ("y", 6, 0), ("y", 6, 0), ("w", 7, 1)]
    events.append(("w", 8, 1))
    log = [
        {"user_id": "a", "item_id": item, "timestamp": time, "click": click, "pos": place}
        for place, (item, time, click) in enumerate(events)
    ]
    columns = {"label": "click", "order": "pos"}
    values = {
        "interactions": {"path": "interactions.parquet", "columns": columns},
        "positive_label": 1,
        "duplicates": duplicates,
    }
    run(tmp_path, values, log)
    assert told in caplog.text
    assert ("own user, item and second" in caplog.text) == bool(told)
