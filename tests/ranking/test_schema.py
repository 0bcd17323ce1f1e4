"""The feature schema: what is proposed, fitted, encoded and refused."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.ranking.rich_world import (
    ITEMS,
    USERS,
    field,
    item_table,
    log_context,
    user_table,
    write,
)

from dasrec.core import Corpus
from dasrec.core.config import build_config
from dasrec.core.corpus import SPLITS
from dasrec.ranking import FeatureConfig, FeatureSchema, build_schema
from dasrec.ranking.features.encode import (
    CLIP,
    context_columns,
    encode_context,
    encode_table,
    field_collisions,
    hashed_rows,
    known_context,
)
from dasrec.ranking.rows import impression_rows


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return write(tmp_path / "corpus")


def fit(corpus: Corpus, *fields: dict[str, Any], **values: Any) -> FeatureSchema:
    values = {"fields": list(fields), "propose": not fields} | values
    config = build_config(FeatureConfig, values, "ranking.features")
    return build_schema(config, corpus, impression_rows(corpus, "train"), None)


def test_proposed_fields(corpus: Corpus) -> None:
    found = {(f.spec.side, f.spec.name): f.spec.type for f in fit(corpus).fields}
    assert found == {
        ("user", "age"): "categorical",  # whole numbers written as floats
        ("user", "fans"): "numeric",
        ("user", "likes"): "sequence",
        ("item", "brand"): "categorical",
        ("item", "genres"): "sequence",  # "g0, g1" and the like
        ("item", "price"): "numeric",
        ("context", "device"): "categorical",
        ("context", "bid"): "categorical",
    }  # ids, member numbers, authors (too many), empty columns and the time are not features


def test_configured_fields_replace_proposals_of_their_column(corpus: Corpus) -> None:
    author = field("categorical", "item", "author", hash_size=16)
    genres = field("sequence", "item", "kinds", column="genres", separator=", ")
    schema = fit(corpus, author, genres, propose=True, time_of_day=True)
    names = [(f.spec.side, f.spec.name, f.spec.type) for f in schema.fields]
    assert names[:2] == [("item", "author", "categorical"), ("item", "kinds", "sequence")]
    assert ("item", "genres", "sequence") not in names
    assert names[-2:] == [
        ("context", "timestamp.hour", "categorical"),
        ("context", "timestamp.weekday", "categorical"),
    ]
    assert context_columns(schema) == ("device", "bid", "timestamp")


def test_a_column_that_renames_another_one_is_not_proposed(tmp_path: Path) -> None:
    renamed = item_table().with_columns(brand_name="brand " + pl.col("brand"))
    names = {f.spec.name for f in fit(write(tmp_path / "c", items=renamed)).fields}
    assert "brand" in names
    assert "brand_name" not in names


def test_fitted_on_training_rows_only(tmp_path: Path, corpus: Corpus) -> None:
    """Held-out rows changed: other items, and other values in users, items and context."""
    found = corpus.impressions
    assert found is not None
    train = found.split == SPLITS["train"]
    unseen = np.setdiff1d(np.arange(ITEMS), found.item_idx[train][found.item_idx[train] < 40])
    item = np.where(train, found.item_idx % 40, unseen[found.item_idx % len(unseen)])
    base = write(tmp_path / "base", item=np.where(train, item, 0))
    items = item_table()
    shift = pl.int_range(ITEMS) >= 40
    changed_items = items.with_columns(
        pl.when(shift).then(pl.lit("new")).otherwise("brand").alias("brand"),
        pl.when(shift).then(-1e6).otherwise("price").alias("price"),
    )
    held = pl.Series(~train)
    context = log_context(len(train)).with_columns(
        pl.when(held).then(pl.lit("new")).otherwise("device").alias("device"),
        pl.when(held).then(1e6).otherwise("bid").alias("bid"),
    )
    other = write(tmp_path / "other", item=item, items=changed_items, context=context)
    fields = [
        field("categorical", "item", "brand"),
        field("numeric", "item", "price", num_buckets=5),
        field("numeric", "context", "bid", encoding="standardise"),
        field("categorical", "context", "device"),
        field("sequence", "user", "likes"),
    ]
    texts = [fit(c, *fields, time_of_day=True).model_dump_json() for c in (base, other)]
    assert texts[0] == texts[1]
    assert '"b1"' in texts[0]


def test_rare_and_unknown_values_share_row_zero(corpus: Corpus) -> None:
    rows = impression_rows(corpus, "train")
    authors = item_table()["author"]
    counts = authors[rows.item_idx.astype(np.int64)].value_counts()
    least = int(np.median(counts["count"]))
    schema = fit(corpus, field("categorical", "item", "author", min_count=least))
    common = sorted(counts.filter(pl.col("count") >= least)["author"])
    assert list(schema.fields[0].values) == common
    expected = [common.index(a) + 1 if a in common else 0 for a in authors]
    assert encode_table(schema, "item", corpus).categories[:, 0].tolist() == expected
    assert 0 in expected


def test_buckets_hold_equal_shares_of_the_training_rows(corpus: Corpus) -> None:
    schema = fit(corpus, field("numeric", "item", "price", num_buckets=4))
    bucket = encode_table(schema, "item", corpus).categories[:, 0]
    price = item_table()["price"].to_list()
    assert [b == 0 for b in bucket] == [p is None for p in price]
    rows = impression_rows(corpus, "train").item_idx
    seen = np.array([price[i] for i in rows if price[i] is not None])
    edges = np.quantile(seen, [0.25, 0.5, 0.75])
    assert schema.fields[0].edges == pytest.approx(edges)
    by_hand = [0 if p is None else 1 + sum(p >= e for e in edges) for p in price]
    assert bucket.tolist() == by_hand
    share = np.bincount(bucket[rows])[1:] / len(seen)
    assert share == pytest.approx([0.25] * 4, abs=0.06)


def test_standardised_numbers(corpus: Corpus) -> None:
    schema = fit(corpus, field("numeric", "user", "fans", encoding="standardise"))
    fans = np.array([np.nan if f is None else f for f in user_table()["fans"]])
    seen = fans[impression_rows(corpus, "train").user_idx]
    expected = ((fans - np.nanmean(seen)) / np.nanstd(seen)).clip(-CLIP, CLIP)
    np.testing.assert_allclose(encode_table(schema, "user", corpus).numbers[:, 0], expected, 1e-5)
    far = pl.DataFrame({"bid": [1e9, None]})
    schema = fit(corpus, field("numeric", "context", "bid", encoding="standardise"))
    np.testing.assert_equal(encode_context(schema, far, 2)[1][:, 0], [CLIP, np.nan])


def test_sequences(corpus: Corpus) -> None:
    fields = (
        field("sequence", "user", "likes", max_length=1),
        field("sequence", "item", "genres", separator=", "),
    )
    schema = fit(corpus, *fields)
    assert schema.fields[0].values == ("t0", "t1", "t2", "t3", "t4")
    likes = encode_table(schema, "user", corpus).sequences[:, 0]
    assert likes.shape == (USERS, 1)
    assert likes[:, 0].tolist() == [2 + u % 3 if u % 4 else 0 for u in range(USERS)]
    genres = encode_table(schema, "item", corpus).sequences[:, 0]
    values = schema.fields[1].values
    for row, text in enumerate(item_table()["genres"]):
        expected = [2 + values.index(part) for part in text.split(", ")] if text else [2]
        assert genres[row][: len(expected)].tolist() == expected, text


def test_hashing_and_its_collisions(corpus: Corpus) -> None:
    schema = fit(corpus, field("categorical", "item", "author", hash_size=8))
    rows = encode_table(schema, "item", corpus).categories[:, 0]
    assert rows.min() >= 1
    assert rows.max() < 8
    authors = np.array(item_table()["author"])
    for author in np.unique(authors):
        assert len(np.unique(rows[authors == author])) == 1
    assert field_collisions(schema, corpus) == {"item.author": 23 / len(np.unique(rows))}
    text = pl.Series(["a", None, "b", "never seen"])
    # known values: the rows of a saved model must not move
    assert hashed_rows(text, 1_000, "x").to_list() == [468, 0, 637, 423]


def test_context_that_is_not_known_is_missing(corpus: Corpus) -> None:
    fields = (
        field("categorical", "context", "device"),
        field("numeric", "context", "bid", encoding="standardise"),
    )
    schema = fit(corpus, *fields, time_of_day=True)
    rows, numbers = encode_context(schema, None, 3)
    assert not rows.any()
    assert np.isnan(numbers).all()
    rows, numbers = encode_context(schema, known_context(schema, np.array([0, 5 * 3600])), 2)
    hours = schema.categories("context")[1].values
    assert rows[:, 0].tolist() == [0, 0]
    assert [hours[row - 1] for row in rows[:, 1]] == ["0", "5"]
    assert schema.categories("context")[2].values == ("4",)  # 1 January 1970 was a Thursday
    assert np.isnan(numbers).all()


def test_vectors_of_a_matrix_follow_the_raw_table(tmp_path: Path, corpus: Corpus) -> None:
    matrix = np.random.default_rng(0).normal(size=(ITEMS, 3)).astype(np.float32)
    path = tmp_path / "vectors.npy"
    np.save(path, matrix)
    schema = fit(corpus, field("dense", "item", "content", path=str(path)))
    np.testing.assert_array_equal(encode_table(schema, "item", corpus).dense, matrix[::-1])
    np.save(path, matrix + 1)
    with pytest.raises(ValueError, match=r"content: .*vectors.npy is .*, the model was trained wi"):
        encode_table(schema, "item", corpus)
    matrix[4, 1] = np.nan
    np.save(path, matrix)
    with pytest.raises(ValueError, match="the vector of item 45 holds NaN"):
        fit(corpus, field("dense", "item", "content", path=str(path)))
    np.save(path, matrix[:9])
    with pytest.raises(ValueError, match="give one vector for each of its rows"):
        fit(corpus, field("dense", "item", "content", path=str(path)))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (field("categorical", "item", "colour"), r"colour \(items\): no column 'colour'; the tab"),
        (field("numeric", "item", "brand"), "brand: column 'brand' holds String, not numbers"),
        (field("categorical", "user", "fans"), "fans: row 2, column 'fans': has a fraction, got"),
        (field("categorical", "user", "likes"), "'likes' holds .*, not categories; declare it seq"),
        (field("sequence", "item", "genres"), "column 'genres' holds String, expected lists"),
        (field("sequence", "user", "likes", separator=","), "expected text, as there is a separa"),
        (field("categorical", "context", "page"), r"page \(contexts\): no column 'page'"),
        (field("sequence", "context", "device"), "side: expected 'user' or 'item', got 'context'"),
        (field("dense", "item", "v", path="nowhere.npy"), "v: nowhere.npy: no such file"),
        (
            field("numeric", "item", "v", colum="price"),
            r"0: unknown key 'colum' \(did you mean 'co",
        ),
        ({"side": "item", "name": "v"}, r"fields\.0\.type: required, but missing"),
        (field("ordinal", "item", "v"), "type: expected one of .* got 'ordinal'"),
    ],
)
def test_one_clear_error(corpus: Corpus, fault: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        fit(corpus, fault)


def test_names_are_unique() -> None:
    twice = [field("categorical", "item", "brand"), field("numeric", "item", "brand")]
    with pytest.raises(ValueError, match="fields: two of one name and side, got item brand"):
        build_config(FeatureConfig, {"fields": twice}, "ranking.features")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_must_be_finite(tmp_path: Path, bad: float) -> None:
    broken = item_table().with_columns(
        pl.when(pl.int_range(ITEMS) == 7).then(bad).otherwise("price").alias("price")
    )
    corpus = write(tmp_path / "c", items=broken)
    with pytest.raises(ValueError, match=r"row 8, column 'price': not a finite number, got"):
        fit(corpus, field("numeric", "item", "price"))
    assert "price" not in {f.spec.name for f in fit(corpus).fields}  # not proposed either


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pl.DataFrame({"device": ["d1"]}), r"bid \(contexts\): no column 'bid'; the table has dev"),
        (
            pl.DataFrame({"device": [3], "bid": [1.0]}),
            "column 'device' held texts in training, got Int64",
        ),
        (
            pl.DataFrame({"device": ["d1"], "bid": ["1"]}),
            "column 'bid' held numbers in training, got String",
        ),
        (pl.DataFrame({"device": ["d1"], "bid": [np.nan]}), "row 1, column 'bid': not a finite"),
        (pl.DataFrame({"device": ["a", "b"], "bid": [1, 2]}), "1 rows to score but 2 rows of con"),
    ],
)
def test_scored_context_is_checked(corpus: Corpus, frame: pl.DataFrame, message: str) -> None:
    schema = fit(
        corpus, field("categorical", "context", "device"), field("numeric", "context", "bid")
    )
    with pytest.raises(ValueError, match=message):
        encode_context(schema, frame, 1)


def test_scored_tables_are_checked(tmp_path: Path, corpus: Corpus) -> None:
    schema = fit(corpus, field("categorical", "item", "brand"))
    other = write(tmp_path / "c", items=item_table().with_columns(brand=pl.int_range(ITEMS)))
    with pytest.raises(ValueError, match="column 'brand' held texts in training, got Int64"):
        encode_table(schema, "item", other)
    gone = write(tmp_path / "d", items=item_table().drop("brand"))
    with pytest.raises(ValueError, match=r"brand \(items\): no column 'brand'"):
        encode_table(schema, "item", gone)
    nothing = item_table().with_columns(brand=pl.lit(None))
    missing = write(tmp_path / "e", items=nothing)
    assert not encode_table(schema, "item", missing).categories.any()


def test_schema_survives_a_round_trip(corpus: Corpus) -> None:
    schema = fit(corpus, time_of_day=True)
    assert FeatureSchema.model_validate_json(schema.model_dump_json()) == schema
    assert len(schema.fields) == 10
