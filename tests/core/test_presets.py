"""Presets read files in the published layouts; a config's own keys win."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from dasrec.core import Corpus, PrepareConfig, build_config, prepare
from dasrec.core.presets import PRESETS
from dasrec.core.readers import TableConfig

NO_CORE = {"min_user_interactions": 0, "min_item_interactions": 0}


def lines(rows: list[Any], dump: Any = json.dumps) -> bytes:
    return gzip.compress("".join(f"{dump(row)}\n" for row in rows).encode())


def run(folder: Path, values: dict[str, Any]) -> Corpus:
    return prepare(build_config(PrepareConfig, values, "f"), folder, folder / "corpus")


def order_of(corpus: Corpus, user: str) -> list[str]:
    u = corpus.users["user_id"].to_list().index(user)
    first, end = corpus.user_start[u : u + 2]
    return corpus.items["item_id"].gather(corpus.item_idx[first:end]).to_list()


REVIEWS = [
    {"reviewerID": "A1", "asin": asin, "unixReviewTime": t, "overall": 5.0, "reviewText": "it's"}
    for asin, t in (("B3", 30), ("B1", 10), ("B2", 20))
]


def test_amazon_2014(tmp_path: Path) -> None:
    meta = [
        {
            "asin": f"B{n}",
            "title": 'Women\'s "best" brush',
            "categories": [["Beauty", "Tools"]],
            "price": 3.5,
            "salesRank": {"Beauty": n},
            "related": {"also_bought": ["B1"]},
        }
        for n in range(1, 5)
    ]
    meta.append({"asin": "B9", "brand": "Acme", "description": "d"})
    (tmp_path / "reviews_Beauty_5.json.gz").write_bytes(lines(REVIEWS))
    (tmp_path / "meta_Beauty.json.gz").write_bytes(lines(meta, repr))
    corpus = run(tmp_path, {"preset": "amazon_2014", **NO_CORE})
    assert order_of(corpus, "A1") == ["B1", "B2", "B3"]
    assert corpus.num_items == 3
    row = corpus.items.row(0, named=True)
    assert list(row)[2:] == ["title", "brand", "categories", "description", "price"]
    assert row["title"] == 'Women\'s "best" brush'
    assert row["categories"] == [["Beauty", "Tools"]]


def test_amazon_2018(tmp_path: Path) -> None:
    meta: list[dict[str, Any]] = [
        {"asin": "B1", "title": "one", "category": ["a", "b"], "brand": "x", "description": []},
        {"asin": "B1", "title": "again", "price": "$5", "rank": ["1"]},
        {"asin": "B2", "title": "two", "description": ["text"], "rank": "5"},
    ]
    (tmp_path / "All_Beauty_5.json.gz").write_bytes(lines(REVIEWS))
    (tmp_path / "meta_All_Beauty.json.gz").write_bytes(lines(meta))
    corpus = run(tmp_path, {"preset": "amazon_2018", **NO_CORE})
    assert order_of(corpus, "A1") == ["B1", "B2"]  # B3 has no metadata
    assert corpus.items.sort("item_id")["title"].to_list() == ["one", "two"]
    assert corpus.items.sort("item_id")["categories"].to_list() == [["a", "b"], None]


def test_amazon_2023(tmp_path: Path) -> None:
    reviews = [
        {"user_id": "A1", "asin": "x", "parent_asin": asin, "timestamp": t, "rating": 1.0}
        for asin, t in (("B3", 1_400_000_000_900), ("B1", 1_400_000_000_100))
    ]
    meta = [
        {"parent_asin": f"B{n}", "title": f"t{n}", "store": "s", "main_category": "c", "price": p}
        | {"features": ["f"], "description": [], "categories": []}
        for n, p in ((1, None), (3, 2.5))
    ]
    (tmp_path / "All_Beauty.jsonl.gz").write_bytes(lines(reviews))
    (tmp_path / "meta_All_Beauty.jsonl.gz").write_bytes(lines(meta))
    corpus = run(tmp_path, {"preset": "amazon_2023", **NO_CORE})
    assert order_of(corpus, "A1") == ["B1", "B3"]
    assert corpus.timestamp.tolist() == [1_400_000_000] * 2
    assert sorted(corpus.items["brand"]) == ["s", "s"]


def write_movielens(folder: Path, name: str) -> None:
    folder.mkdir()
    ratings = [("1", "10", "5", "30"), ("1", "20", "3", "20"), ("1", "30", "4", "10")]
    if name == "ml_100k":
        genres = "|".join("0" * 19)
        titles = {"10": "Léon", "20": '"Quote" (1990)', "30": "x"}
        files = {
            "u.data": "\n".join("\t".join(r) for r in ratings),
            "u.item": "\n".join(f"{i}|{t}|1-Jan|||{genres}" for i, t in titles.items()),
            "u.user": "1|24|M|technician|01234",
        }
    elif name == "ml_1m":
        files = {
            "ratings.dat": "\n".join("::".join(r) for r in ratings),
            "movies.dat": "10::Léon: x::Crime|Drama\n20::b::Drama\n30::c::Drama",
            "users.dat": "1::F::1::10::48067",
        }
    else:
        rows = "\n".join(",".join(r) for r in ratings)
        files = {
            "ratings.csv": f"userId,movieId,rating,timestamp\n{rows}",
            "movies.csv": 'movieId,title,genres\n10,"Léon, x",Crime\n20,b,Drama\n30,c,Drama',
            "tags.csv": "userId,movieId,tag,timestamp\n1,10,t,0",
        }
    for file, text in files.items():
        encoding = "utf-8" if name in ("ml_20m", "ml_25m") else "latin-1"
        (folder / file).write_bytes((text + "\n").encode(encoding))


@pytest.mark.parametrize("name", ["ml_100k", "ml_1m", "ml_20m", "ml_25m"])
def test_movielens(tmp_path: Path, name: str) -> None:
    write_movielens(tmp_path / name.replace("_", "-"), name)
    corpus = run(tmp_path, {"preset": name})
    assert order_of(corpus, "1") == ["30", "10"]  # rated 4 and 5
    assert corpus.num_items == 3
    assert corpus.items.sort("item_id")["title"][0].startswith("Léon")
    assert corpus.impressions is not None
    assert corpus.impressions.label.tolist() == [1, 0, 1]
    assert corpus.impressions.history_end.tolist() == [0, 1, 1]
    if name != "ml_20m" and name != "ml_25m":
        assert {"gender", "age", "occupation", "zip_code"} < set(corpus.users.columns)
        assert corpus.users["age"].dtype == pl.Int64


def test_own_keys_win_over_the_preset() -> None:
    values = {
        "preset": "ml_1m",
        "interactions": {"path": "my.dat", "columns": {"label": None}},
        "users": None,
        "positive_label": None,
        "catalogue": "seen",
    }
    config = build_config(PrepareConfig, values, "f")
    assert config.interactions.path == "my.dat"
    assert config.interactions.delimiter == "::"  # from the preset
    assert config.interactions.columns == {}  # null takes a mapping away
    assert (config.users, config.catalogue) == (None, "seen")
    assert config.items is not None
    assert config.items.path == "**/movies.dat"
    in_python = PrepareConfig(preset="ml_1m", interactions=TableConfig(path="my.dat"))
    assert in_python.interactions.header == ("user_id", "item_id", "rating", "timestamp")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_valid_config_and_survives_a_manifest(name: str) -> None:
    config = build_config(PrepareConfig, {"preset": name}, "f")
    again = build_config(PrepareConfig, json.loads(json.dumps(config.as_json())), "f")
    assert again == config
