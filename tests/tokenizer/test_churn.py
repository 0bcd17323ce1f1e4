"""Churn by hand: five items, of which three are in both tables."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dasrec.core import SemanticIds, SidTable, load_sids, save_sids_payload, write_artifact
from dasrec.tokenizer.churn import churn


def sids(path: Path, rows: dict[str, list[int]], *, named: bool = True) -> SemanticIds:
    codes = np.array(list(rows.values()), np.uint16)
    ids = pl.Series("item_id", list(rows)) if named else None
    sizes = (9,) * codes.shape[1]
    table = SidTable(codes, sizes, np.zeros((len(rows), 2), np.float32), (), ids)
    users = SidTable(codes[:1], sizes, table.vectors[:1], (), pl.Series(["u"]) if named else None)
    write_artifact(path, "semantic_ids", {}, {}, lambda out: save_sids_payload(out, table, users))
    return load_sids(path)


OLD = {"a": [0, 0, 0], "b": [0, 0, 1], "c": [0, 1, 2], "gone": [5, 5, 5]}
NEW = {"new": [8, 8, 8], "c": [1, 1, 2], "a": [0, 0, 0], "b": [0, 3, 1], "new2": [7, 7, 7]}


def test_churn_by_hand(tmp_path: Path) -> None:
    figures = churn(sids(tmp_path / "old", OLD), sids(tmp_path / "new", NEW))
    third = pytest.approx(1 / 3)
    assert {name: v for name, v in figures.items() if name.startswith("item/")} == {
        "item/old_rows": 4,
        "item/new_rows": 5,
        "item/matched_rows": 3,
        "item/new": pytest.approx(2 / 5),
        "item/retired": pytest.approx(1 / 4),
        "item/sid_changed": pytest.approx(2 / 3),  # b and c
        "item/code_changed_0": third,  # c
        "item/code_changed_1": third,  # b
        "item/code_changed_2": 0,
        "item/prefix_changed_1": third,
        "item/prefix_changed_2": pytest.approx(2 / 3),
        "item/prefix_changed_3": pytest.approx(2 / 3),
        "item/kept_together_1": third,  # of ab, ac, bc: ab
        "item/kept_together_2": 0,  # ab
    }
    assert figures["user/matched_rows"] == 1
    assert figures["user/sid_changed"] == 1


def test_renamed_codewords_change_every_code_but_keep_items_together(tmp_path: Path) -> None:
    old = sids(tmp_path / "old", OLD)
    renamed = {name: [8 - code for code in codes] for name, codes in OLD.items()}
    figures = churn(old, sids(tmp_path / "new", renamed))
    assert figures["item/sid_changed"] == figures["item/prefix_changed_1"] == 1
    assert figures["item/kept_together_1"] == figures["item/kept_together_2"] == 1
    same = churn(old, old)
    assert same["item/sid_changed"] == same["item/new"] == same["item/retired"] == 0


def test_tables_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    old = sids(tmp_path / "old", OLD)
    with pytest.raises(ValueError, match="a table of items has no ids"):
        churn(sids(tmp_path / "nameless", OLD, named=False), old)
    short = {name: codes[:2] for name, codes in OLD.items()}
    with pytest.raises(ValueError, match="items have 3 levels in the old table and 2"):
        churn(old, sids(tmp_path / "short", short))
