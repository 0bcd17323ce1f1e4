from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
import torch

from dasrec.core import Corpus, Embeddings
from dasrec.tokenizer import AssignConfig, assign, load_tokenizer, train_tokenizer
from dasrec.tokenizer.methods.imported import ImportedConfig, read_codes

MakeWorld = Callable[..., tuple[Corpus, Embeddings]]
World = tuple[Corpus, Embeddings]

CONFIG = ImportedConfig(column="sid")


def with_sids(world: World, codes: npt.NDArray[np.int64]) -> World:
    text = ["".join(f"<{'abcdefghijkl'[i]}_{c}>" for i, c in enumerate(row)) for row in codes]
    items = world[0].items.with_columns(pl.Series("sid", text))
    world[0].__dict__["items"] = items  # the cache in front of items.parquet
    return world


def test_round_trip(make_world: MakeWorld, tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 9, (40, 12))  # levels 10 and 11 come after 9
    codes = np.minimum(codes, np.arange(12) % 7 + 2)
    codes[0] = np.arange(12) % 7 + 2
    world = with_sids(make_world(), codes)
    one = train_tokenizer(CONFIG, *world, tmp_path / "t")
    two = train_tokenizer(CONFIG, *world, tmp_path / "again")
    assert one.fingerprint == two.fingerprint
    sids = assign(AssignConfig(collisions="share"), tmp_path / "t", *world, tmp_path / "s")
    np.testing.assert_array_equal(sids.items.codes, codes)
    assert sids.items.level_sizes == tuple(codes.max(0) + 1)
    config, sides = load_tokenizer(tmp_path / "t")
    assert config == CONFIG
    encoded = sides.items.quantize(torch.from_numpy(np.array(world[1].items)))
    np.testing.assert_array_equal(encoded.codes_NL.numpy(), codes)


def test_codewords_are_mean_residuals(make_world: MakeWorld, tmp_path: Path) -> None:
    codes = np.random.default_rng(1).integers(0, 6, (40, 2))
    codes[:, 0][codes[:, 0] == 2] = 3  # nobody has 2
    codes[0] = 5
    world = with_sids(make_world(), codes)
    train_tokenizer(CONFIG, *world, tmp_path / "t")
    sids = assign(AssignConfig(collisions="share"), tmp_path / "t", *world, tmp_path / "s")
    x = np.array(world[1].items, np.float64)
    residual = x / np.linalg.norm(x, axis=1, keepdims=True)
    z = np.zeros_like(x)
    for level in range(2):
        book = np.zeros((6, x.shape[1]))
        for code in set(codes[:, level]):
            book[code] = residual[codes[:, level] == code].mean(0)
        np.testing.assert_allclose(sids.items.codebooks[level], book, atol=1e-5)
        z, residual = z + book[codes[:, level]], residual - book[codes[:, level]]
    np.testing.assert_allclose(sids.items.vectors, z, atol=1e-5)


def test_new_items_are_refused(make_world: MakeWorld, tmp_path: Path) -> None:
    world = with_sids(make_world(), np.ones((40, 3), int))
    train_tokenizer(CONFIG, *world, tmp_path / "t")
    _, sides = load_tokenizer(tmp_path / "t")
    with pytest.raises(ValueError, match="imported for 40 items, got 41 rows"):
        sides.items.quantize(torch.randn(41, 12))


def frame(sids: list[object]) -> pl.DataFrame:
    return pl.DataFrame({"item_id": [f"i{n}" for n in range(len(sids))], "sid": sids})


@pytest.mark.parametrize(
    "sids", [["<a_183><b_0>", "<a_2><b_41>"], [[183, 0], [2, 41]]], ids=["text", "lists"]
)
def test_columns_that_are_read(sids: list[object]) -> None:
    assert read_codes(frame(sids), "sid").tolist() == [[183, 0], [2, 41]]


@pytest.mark.parametrize(
    ("sids", "message"),
    [
        (["<a_1><b_2>", None], r"items.sid, row 1 \(item i1\): expected 2 codes, got None"),
        (["<a_1><b_2>", "<a_1>"], r"row 1 \(item i1\): expected 2 codes, got '<a_1>'"),
        ([None, "<a_1>"], r"row 0 \(item i0\): expected 1 codes, got None"),
        ([[1, 2], [3, None]], r"row 1 \(item i1\): expected 2 codes"),
        ([[1, 2], [3, -1]], r"from 0 to 65535, got -1 to 3"),
        (["<a_1>", "<a_65536>"], r"from 0 to 65535, got 1 to 65536"),
        ([0.5, 1.5], r"expected text or lists of integers, got Float64"),
        (["none", "at all"], r"row 0 \(item i0\): expected 1 codes, got 'none'"),
    ],
)
def test_user_errors(sids: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_codes(frame(sids), "sid")


def test_a_missing_column_is_named(make_world: MakeWorld, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no column 'sid'.*add it to prepare.items.keep"):
        train_tokenizer(CONFIG, *make_world(), tmp_path / "t")
