"""Reading: every format gives the same table, and every fault is named once."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dasrec.core.columns import US, ids, numbers, times
from dasrec.core.readers import Format, TableConfig, read_table

ROWS = [
    {"user": "u1", "item": "007", "when": 1_400_000_000, "stars": 4.5, "title": "Ünder"},
    {"user": "u2", "item": "12", "when": 1_400_000_060, "stars": 3.0, "title": 'He said "no"'},
    {"user": "ü3", "item": "0", "when": 1_400_000_120, "stars": 1.0, "title": "a, b"},
]
COLUMNS = {"user_id": "user", "item_id": "item", "timestamp": "when"}


def csv_text(delimiter: str, quote: bool) -> str:
    def field(value: Any) -> str:
        text = str(value)
        return '"' + text.replace('"', '""') + '"' if quote and not text.isalnum() else text

    lines = [delimiter.join(ROWS[0])]
    lines += [delimiter.join(field(v) for v in row.values()) for row in ROWS]
    return "\n".join(lines) + "\n"


def python_text(rows: list[dict[str, Any]]) -> str:
    return "".join(f"{row!r}\n" for row in rows)


def json_text(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


WRITERS: dict[str, tuple[Format, dict[str, Any], Callable[[], str]]] = {
    "log.csv": ("csv", {}, lambda: csv_text(",", quote=True)),
    "log.tsv": ("tsv", {}, lambda: csv_text("\t", quote=False)),
    "log.dat": ("tsv", {"delimiter": "::"}, lambda: csv_text("::", quote=False)),
    "log.pipe": ("csv", {"delimiter": "|"}, lambda: csv_text("|", quote=True)),
    "log.jsonl": ("jsonl", {}, lambda: json_text(ROWS)),
    "log.json": ("jsonl", {}, lambda: json_text(ROWS)),
    "log.txt": ("python", {}, lambda: python_text(ROWS)),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("gz", [False, True])
def test_every_format_gives_the_same_table(tmp_path: Path, name: str, gz: bool) -> None:
    form, options, write = WRITERS[name]
    content = write().encode()
    path = tmp_path / (f"{name}.gz" if gz else name)
    path.write_bytes(gzip.compress(content) if gz else content)
    guessed = Path(name).suffix in (".csv", ".tsv", ".jsonl", ".json")
    config = TableConfig(
        path=path.name, format=None if guessed else form, columns=COLUMNS, **options
    )
    frame = read_table(config, tmp_path)
    assert sorted(frame.columns) == ["item_id", "stars", "timestamp", "title", "user_id"]
    assert ids(frame, "item_id", "f").to_list() == ["007", "12", "0"]
    assert ids(frame, "user_id", "f").to_list() == ["u1", "u2", "ü3"]
    seconds = times(frame, "timestamp", "seconds", "f") // US
    assert seconds.to_list() == [r["when"] for r in ROWS]
    assert frame["title"].to_list() == [r["title"] for r in ROWS]
    assert frame["stars"].to_list() == [4.5, 3.0, 1.0]
    only = read_table(config, tmp_path, ("timestamp", "item_id"))
    assert only.columns == ["timestamp", "item_id"]
    assert only.equals(frame.select("timestamp", "item_id"))


@pytest.mark.parametrize("gz", [False, True])
def test_parquet(tmp_path: Path, gz: bool) -> None:
    frame = pl.DataFrame(ROWS)
    path = tmp_path / "log.parquet"
    frame.write_parquet(path)
    if gz:
        (tmp_path / "log.parquet.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = tmp_path / "log.parquet.gz"
    config = TableConfig(path=path.name, columns={"item_id": "item"}, keep=("stars",))
    assert read_table(config, tmp_path).columns == ["item_id", "stars"]


def test_files_without_a_header_in_latin_1(tmp_path: Path) -> None:
    (tmp_path / "movies.dat").write_bytes(
        '1::Léon: the pro::Crime\n02::"Q"::Drama\n'.encode("latin-1")
    )
    config = TableConfig(
        path="movies.dat",
        format="tsv",
        delimiter="::",
        encoding="latin-1",
        header=("item_id", "title", "genres"),
    )
    frame = read_table(config, tmp_path)
    assert frame.rows() == [("1", "Léon: the pro", "Crime"), ("02", '"Q"', "Drama")]
    assert read_table(config, tmp_path, ("item_id",)).rows() == [("1",), ("02",)]
    wrong = config.model_copy(update={"header": ("item_id", "title")})
    with pytest.raises(ValueError, match=r"movies.dat: header names 2 columns, the file has 3"):
        read_table(wrong, tmp_path)


def test_projection_keeps_the_right_columns_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("9,8,7\n6,5,4\n")
    config = TableConfig(
        path="r.csv",
        header=("a", "b", "c"),
        columns={"user_id": "c", "item_id": "a", "timestamp": "b"},
    )
    assert read_table(config, tmp_path, ("user_id", "item_id")).rows() == [("7", "9"), ("4", "6")]


def test_json_lines_with_missing_keys_and_mixed_types(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": 1, "price": 2.5, "cat": [["a", "b"]]},
        {"id": "x", "price": "$3"},
        {"id": "y"},
    ]
    (tmp_path / "m.jsonl").write_text(json_text(rows))
    (tmp_path / "m.txt").write_text(python_text(rows))
    for name, form in (("m.jsonl", "jsonl"), ("m.txt", "python")):
        config = TableConfig.model_validate(
            {"path": name, "format": form, "columns": {"item_id": "id"}}
        )
        frame = read_table(config, tmp_path)
        assert frame["item_id"].to_list() == ["1", "x", "y"]
        assert frame["price"].to_list() == ["2.5", "$3", None]
        assert frame["cat"].to_list() == [[["a", "b"]], None, None]


def test_a_renamed_column_replaces_one_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("asin,item_id,title\nA,1,x\n")
    frame = read_table(TableConfig(path="m.csv", columns={"item_id": "asin"}), tmp_path)
    assert frame.rows(named=True) == [{"item_id": "A", "title": "x"}]


@pytest.mark.parametrize(
    ("values", "time", "seconds"),
    [
        ([0, 60], "seconds", [0, 60]),
        (["0", "60.5"], "seconds", [0, 60.5]),
        ([1_400_000_000_123], "milliseconds", [1_400_000_000.123]),
        ([1.5], "seconds", [1.5]),
        (
            [
                "1970-01-02",
                "1970-01-02T00:00:01",
                "1970-01-02 00:00:01.5Z",
                "1970-01-02T01:00+01:00",
            ],
            "iso",
            [86_400, 86_401, 86_401.5, 86_400],
        ),
        (["01 2, 1970"], "%m %d, %Y", [86_400]),
        (["02/01/1970 01:00 +0100"], "%d/%m/%Y %H:%M %z", [86_400]),
    ],
)
def test_times(values: list[Any], time: str, seconds: list[float]) -> None:
    found = times(pl.DataFrame({"t": values}), "t", time, "f")
    assert found.to_list() == [round(s * US) for s in seconds]


def test_times_of_temporal_columns() -> None:
    text = pl.Series("t", ["1970-01-02 00:00"])
    naive = text.str.to_datetime("%Y-%m-%d %H:%M", time_unit="ms")
    for column in (naive, naive.cast(pl.Date), naive.dt.replace_time_zone("UTC")):
        assert times(column.to_frame(), "t", "seconds", "f").to_list() == [86_400 * US]
    berlin = naive.dt.replace_time_zone("Europe/Berlin")
    assert times(berlin.to_frame(), "t", "seconds", "f").to_list() == [82_800 * US]


@pytest.mark.parametrize(
    ("check", "values", "message"),
    [
        ("ids", ["a", None], r"^f: row 2, column 'c': no id, got None; "),
        ("ids", ["a", "b", ""], r"^f: row 3, column 'c': no id, got ''; "),
        ("ids", [1.0, 2.5], r"^f: row 2, column 'c': not an id, got 2.5; "),
        ("ids", [1.0, float("nan")], r"^f: row 2, column 'c': not an id, got nan; "),
        ("numbers", [1.0, None], r"^f: row 2, column 'c': not a number, got None; "),
        ("numbers", [float("nan"), 1.0], r"^f: row 1, column 'c': not a number, got nan; "),
        ("numbers", ["1", "good"], r"^f: row 2, column 'c': not a number, got 'good'; "),
        ("seconds", ["1", "soon"], r"^f: row 2, column 'c': not a time \(seconds\), got 'soon'; "),
        ("seconds", [1, None], r"^f: row 2, column 'c': not a time \(seconds\), got None; "),
        ("seconds", [float("inf")], r"^f: row 1, column 'c': not a time \(seconds\), got inf; "),
        (
            "seconds",
            [1, 1_400_000_000_000],
            r"^f: row 2, column 'c': too large for seconds, got 1400000000000; is it .*milli",
        ),
        ("iso", ["2014-02-30"], r"^f: row 1, column 'c': not a time \(iso\), got '2014-02-30'; "),
        ("%Y", ["2014", "x"], r"^f: row 2, column 'c': not a time \(%Y\), got 'x'; "),
    ],
)
def test_a_bad_value_is_named(check: str, values: list[Any], message: str) -> None:
    frame = pl.DataFrame({"c": values})
    checks = {"ids": lambda: ids(frame, "c", "f"), "numbers": lambda: numbers(frame, "c", "f")}
    with pytest.raises(ValueError, match=message):
        checks.get(check, lambda: times(frame, "c", check, "f"))()


def test_whole_floats_are_ids() -> None:
    assert ids(pl.DataFrame({"c": [1.0, 20.0]}), "c", "f").to_list() == ["1", "20"]


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("log.csv", "", {}, r"log.csv: holds no rows"),
        ("log.csv", "user_id,item_id\n", {}, r"log.csv: holds no rows"),
        ("log.jsonl", "", {}, r"log.jsonl: holds no rows"),
        (
            "log.csv",
            "userid,i\n1,2\n",
            {},
            r"log.csv: no column 'user_id'; did you mean 'userid'\?",
        ),
        (
            "log.csv",
            "a,b\n1,2\n",
            {"columns": {"user_id": "zzz"}},
            r"log.csv: no column 'zzz' for user_id; it has: a, b",
        ),
        (
            "log.csv",
            "user_id,b\n1,2\n1,2,3\n",
            {},
            r"log.csv: not readable as csv: row 2: 3 fields, expected 2",
        ),
        (
            "log.jsonl",
            '{"user_id": 1}\n{"user_id"\n',
            {},
            r"log.jsonl: not readable as jsonl: row 2: ",
        ),
        (
            "log.dat",
            "1::a\n2::b::c\n",
            {"format": "tsv", "delimiter": "::", "header": ("user_id", "b")},
            r"log.dat: not readable as tsv: row 2: 3 fields, expected 2",
        ),
        ("log.parquet", "no parquet in here", {}, r"log.parquet: not readable as parquet: "),
        ("log.csv.gz", "not gzip", {}, r"log.csv.gz: not readable as csv: "),
        (
            "log.txt",
            "{'user_id': 1}\n{oops\n",
            {"format": "python"},
            r"log.txt: row 2: not a Python",
        ),
        ("log.xls", "?", {}, r"log.xls: unknown suffix '.xls'; set format to one of parquet, csv"),
        (
            "log.csv",
            "a\n1\n",
            {"columns": {"user_id": "a", "item_id": "a"}},
            r"log.csv: a column is mapped twice",
        ),
    ],
)
def test_a_bad_file_is_named(
    tmp_path: Path, name: str, content: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / name).write_text(content)
    only = ("user_id", *(options.get("columns", {}).keys() - {"user_id"}))
    with pytest.raises(ValueError, match=message):
        read_table(TableConfig.model_validate({"path": name, **options}), tmp_path, only)


def test_a_cut_gzip_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(b"user_id\n" + b"1234\n" * 1000)[:-20])
    with pytest.raises(ValueError, match=r"log.csv.gz: not readable as csv: Compressed file ended"):
        read_table(TableConfig(path="log.csv.gz"), tmp_path)


def test_a_wrong_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes("user_id\nL\u00e9on\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"log.csv: not readable as csv: .*utf"):
        read_table(TableConfig(path="log.csv"), tmp_path)


def test_missing_files_and_patterns(tmp_path: Path) -> None:
    (tmp_path / "reviews_Beauty_5.json").write_text('{"user_id": 1}\n')
    with pytest.raises(FileNotFoundError, match=r"did you mean 'reviews_Beauty_5.json'"):
        read_table(TableConfig(path="reviews_Beauty.json"), tmp_path)
    pattern = TableConfig(path="**/reviews_*_5.json")
    assert read_table(pattern, tmp_path).rows() == [(("1"),)]
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "reviews_Toys_5.json").write_text('{"user_id": 1}\n')
    with pytest.raises(ValueError, match=r"fits 2 files \(more/reviews_Toys_5.json, reviews_B"):
        read_table(pattern, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"a\*.csv: no such file"):
        read_table(TableConfig(path="a*.csv"), tmp_path)


def test_config_faults() -> None:
    with pytest.raises(ValueError, match="time must be seconds, milliseconds, iso or a strptime"):
        TableConfig(path="a", time="hours")
    with pytest.raises(ValueError, match="delimiter must not be empty"):
        TableConfig(path="a", delimiter="")
