"""Versions of a table: what is written comes back, and who may use which version."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dasrec.core import Manifest, SidTable, load_sids, save_sids_payload, write_artifact


def table(rows: int, *, ids: list[str] | None = None, retired: SidTable | None = None) -> SidTable:
    codes = np.arange(2 * rows, dtype=np.uint16).reshape(rows, 2)
    vectors = np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32)
    series = None if ids is None else pl.Series("item_id", ids)
    return SidTable(codes, (20, 20), vectors, (np.ones((20, 3), np.float32),), series, retired)


def write(path: Path, items: SidTable, lineage: tuple[str, ...] = ()) -> Manifest:
    return write_artifact(
        path, "semantic_ids", {}, {}, lambda out: save_sids_payload(out, items, None, lineage)
    )


def test_ids_and_retired_rows_come_back(tmp_path: Path) -> None:
    gone = SidTable(np.ones((1, 2), np.uint16), (20, 20), np.ones((1, 3), np.float32), ())
    gone = SidTable(gone.codes, gone.level_sizes, gone.vectors, (), pl.Series(["old"]))
    first = write(tmp_path / "v1", table(2, ids=["a", "b"]))
    write(tmp_path / "v2", table(3, ids=["b", "a", "ü"], retired=gone), (first.fingerprint,))
    sids = load_sids(tmp_path / "v2")
    assert sids.users is None
    assert sids.items.ids is not None
    assert sids.items.ids.to_list() == ["b", "a", "ü"]
    assert sids.items.retired is not None
    assert sids.items.retired.ids is not None
    assert sids.items.retired.ids.to_list() == ["old"]
    np.testing.assert_array_equal(sids.items.retired.vectors, gone.vectors)
    assert (sids.version, sids.lineage) == (2, (first.fingerprint,))


def test_a_plain_table_is_version_one(tmp_path: Path) -> None:
    write(tmp_path / "v1", table(2))
    sids = load_sids(tmp_path / "v1")
    assert (sids.version, sids.items.ids, sids.items.retired) == (1, None, None)
    (tmp_path / "v1" / "lineage.json").unlink()  # as in artifacts from before there were versions
    manifest = (tmp_path / "v1" / "manifest.json").read_text()
    (tmp_path / "v1" / "manifest.json").write_text(manifest.replace("lineage.json", "items.json"))
    assert load_sids(tmp_path / "v1").version == 1


def test_a_model_takes_its_own_version_and_later_ones(tmp_path: Path) -> None:
    first = write(tmp_path / "v1", table(2))
    second = write(tmp_path / "v2", table(3), (first.fingerprint,))
    write(tmp_path / "v3", table(4), (first.fingerprint, second.fingerprint))
    old, mid, new = (load_sids(tmp_path / name) for name in ("v1", "v2", "v3"))

    def model(used: str) -> Manifest:
        return Manifest(kind="generator", config={}, inputs={"semantic_ids": used}, files={})

    for sids in (old, mid, new):
        sids.check_built_from("lm", model(first.fingerprint))
    new.check_built_from("lm", model(second.fingerprint))
    for sids, used in ((old, second.fingerprint), (mid, new.fingerprint), (new, "other")):
        with pytest.raises(ValueError, match=f"lm: was built from semantic_ids {used}, but"):
            sids.check_built_from("lm", model(used))
    with pytest.raises(ValueError, match="semantic_ids None"):
        new.check_built_from("lm", Manifest(kind="generator", config={}, inputs={}, files={}))


def test_faulty_tables_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 distinct ids, got 2 of which 1"):
        write(tmp_path / "v1", table(2, ids=["a", "a"]))
    with pytest.raises(ValueError, match="2 distinct ids, got 3"):
        write(tmp_path / "v1", table(2, ids=["a", "b", "c"]))
    short = table(2)
    with pytest.raises(ValueError, match="2 codes but 1 vectors"):
        write(
            tmp_path / "v1",
            SidTable(short.codes, short.level_sizes, short.vectors[:1], short.codebooks),
        )
    assert not (tmp_path / "v1").exists()
