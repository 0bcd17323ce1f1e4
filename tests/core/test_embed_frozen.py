"""Encoders kept in the artifact and used again for a later catalogue."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.core.small_corpus import NUM_ITEMS, config, make_corpus

from dasrec.core import Corpus, load_embeddings
from dasrec.core.embed import embed

NEW = 30


def later_log(data: dict[str, Any]) -> None:
    """The first items are gone, the others are numbered anew, new ones come; new training events.

    The new items' texts hold words that the earlier catalogue did not have.
    """
    items = data["items"]
    new = pl.DataFrame(
        {
            "item_id": [f"N{i}" for i in range(NEW)],
            "title": ["velvet sofa red", "oak desk lamp", "velvet"] * (NEW // 3),
            "brand": ["Cork"] * NEW,
            "categories": [["Sofas"]] * NEW,
            "price": [1.0] * NEW,
            "source_row": list(range(100, 100 + NEW)),
        },
        schema=items.schema,
    )
    data["items"] = pl.concat([new, items.reverse()[: NUM_ITEMS - 3]])
    rng = np.random.default_rng(9)
    data["item_idx"] = rng.integers(0, len(data["items"]), len(data["item_idx"]), dtype=np.int32)


def rows_by_id(corpus: Corpus, vectors: np.ndarray[Any, Any]) -> dict[str, bytes]:
    ids = corpus.items["item_id"].to_list()
    return {name: np.asarray(row).tobytes() for name, row in zip(ids, vectors, strict=True)}


SECTIONS: dict[str, Any] = {
    "items": {"pca_dim": 3},
    "users": {"pca_dim": 2},
    "more": {
        "title": {"columns": ["title"]},
        "cf": {"encoder": "cooccurrence"},
        "cf_small": {"encoder": "cooccurrence", "pca_dim": 2},
    },
    "cooccurrence": {"dim": 3},
}


def test_the_same_item_keeps_its_bytes_in_a_later_catalogue(tmp_path: Path) -> None:
    chosen = config(**SECTIONS)
    before, after = make_corpus(tmp_path / "a"), make_corpus(tmp_path / "b", later_log)
    old = embed(chosen, before, tmp_path / "ea", seed=1)
    new = embed(chosen, after, tmp_path / "eb", fitted_on=tmp_path / "ea", seed=2)
    third = embed(chosen, before, tmp_path / "ec", fitted_on=tmp_path / "eb", seed=3)
    for name in old.modalities:
        was, now = (
            rows_by_id(before, old.modalities[name]),
            rows_by_id(after, new.modalities[name]),
        )
        common = was.keys() & now.keys()
        assert len(common) == NUM_ITEMS - 3
        assert all(was[one] == now[one] for one in common)
        fresh = new.modalities[name][:NEW]
        assert fresh.any() == (name in ("text", "title"))
    # an item that only has words of the earlier catalogue is not a zero row; "velvet" alone is
    title = new.modalities["title"]
    assert title[1].any()
    assert not title[2].any()
    # the encoders travel on
    np.testing.assert_array_equal(third.items, old.items)
    assert old.manifest.files["users.npy"] == third.manifest.files["users.npy"]
    assert old.space == new.space == third.space == old.manifest.fingerprint
    assert set(new.manifest.inputs) == {"corpus", "fitted_on"}
    assert load_embeddings(tmp_path / "eb", after).space == old.space


def test_without_it_the_space_is_another(tmp_path: Path) -> None:
    chosen = config(**SECTIONS)
    before, after = make_corpus(tmp_path / "a"), make_corpus(tmp_path / "b", later_log)
    old = embed(chosen, before, tmp_path / "ea")
    new = embed(chosen, after, tmp_path / "eb")
    was, now = rows_by_id(before, old.items), rows_by_id(after, new.items)
    assert any(was[one] != now[one] for one in was.keys() & now.keys())
    assert old.space != new.space


@pytest.mark.parametrize("size", [1, 7, 300])
def test_vectors_do_not_depend_on_their_neighbours(tmp_path: Path, size: int) -> None:
    from dasrec.core.projection import fit_pca

    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 50)).astype(np.float32)
    projection = fit_pca(vectors, 20, "items")
    whole = projection(vectors)
    np.testing.assert_array_equal(projection(vectors[:size]), whole[:size])
    np.testing.assert_array_equal(projection(vectors[-size:]), whole[-size:])


def test_vector_files_may_change_and_keep_their_projection(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(NUM_ITEMS + 5, 6)).astype(np.float32)
    np.save(tmp_path / "first.npy", first)
    np.save(tmp_path / "second.npy", np.concatenate([first, rng.normal(size=(200, 6))]))
    before, after = make_corpus(tmp_path / "a"), make_corpus(tmp_path / "b", later_log)
    encoder = {"encoder": "file", "pca_dim": 2}
    users = {"encoder": "history_mean"}
    one = config(items={**encoder, "file": "first.npy"}, users=users)
    two = config(items={**encoder, "file": "second.npy"}, users=users)
    old = embed(one, before, tmp_path / "ea", data_dir=tmp_path)
    new = embed(two, after, tmp_path / "eb", data_dir=tmp_path, fitted_on=tmp_path / "ea")
    was, now = rows_by_id(before, old.items), rows_by_id(after, new.items)
    assert all(was[name] == now[name] for name in was.keys() & now.keys())


def test_nothing_is_pickled(tmp_path: Path) -> None:
    embed(config(**SECTIONS), make_corpus(tmp_path / "a"), tmp_path / "ea")
    kept = [path for path in (tmp_path / "ea" / "fitted").rglob("*") if path.is_file()]
    assert {path.suffix for path in kept} == {".json", ".npy", ".parquet"}
    for path in kept:
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)


def test_another_config_or_an_older_artifact_is_refused(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "a")
    embed(config(), corpus, tmp_path / "ea")

    def again(**sections: Any) -> None:
        embed(config(**sections), corpus, tmp_path / "out", fitted_on=tmp_path / "ea")

    with pytest.raises(ValueError, match=r"embed.lsa.dim: 5, but the encoders in .* with 4"):
        again(lsa={"dim": 5, "min_df": 1})
    with pytest.raises(ValueError, match=r"embed.more.cf.encoder: cooccurrence.* with absent"):
        again(more={"cf": {"encoder": "cooccurrence"}})
    with pytest.raises(FileNotFoundError, match="no 'embeddings' artifact"):
        embed(config(), corpus, tmp_path / "out", fitted_on=tmp_path / "nowhere")
    manifest = json.loads((tmp_path / "ea" / "manifest.json").read_text())
    manifest["files"] = {name: "" for name in ("items.npy", "users.npy")}
    (tmp_path / "ea" / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(tmp_path / "ea" / "fitted")
    with pytest.raises(ValueError, match=r"the encoder of embed.items is lost"):
        again()
    assert not (tmp_path / "out").exists()
