"""Later versions of a table: published SIDs stay, new rows stand beside them."""

import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import torch

from dasrec.core import (
    Corpus,
    Embeddings,
    Manifest,
    SemanticIds,
    SidTable,
    load_corpus,
    load_embeddings,
    write_artifact,
)
from dasrec.core.corpus import save_corpus_payload
from dasrec.tokenizer import AssignConfig, DasConfig, assign, load_tokenizer, train_tokenizer

NUM_ITEMS, NUM_USERS, DIM, CLICKS = 40, 30, 6, 5
CONFIG = DasConfig(
    level_sizes=(4, 24), code_dim=4, hidden=(16,), epochs=2, continuous_epochs=1, batch_size=64
)
ROOM = AssignConfig(extra_level_size=30)
POLICIES = [ROOM, AssignConfig(collisions="reassign_last"), AssignConfig(collisions="cap", cap=2)]
Vectors = dict[str, np.ndarray]


class World(NamedTuple):
    root: Path
    corpus: Corpus
    embeddings: Embeddings


class Tables(NamedTuple):
    """Content by external id."""

    items: Vectors
    users: Vectors


def write_world(
    root: Path,
    tables: Tables,
    fitted_on: Manifest | None = None,
    seed: int = 0,
    space: Manifest | None = None,
    held_out: int | None = None,
) -> World:
    """Random clicks on the first 20 rows; `held_out` is the item of all valid and test events."""
    rng, users = np.random.default_rng(seed), len(tables.users)
    clicked = rng.integers(20, size=users * CLICKS)
    if held_out is not None:
        clicked.reshape(users, CLICKS)[:, -2:] = held_out

    def log(out: Path) -> None:
        save_corpus_payload(
            out,
            user_idx=np.repeat(np.arange(users, dtype=np.int32), CLICKS),
            item_idx=clicked.astype(np.int32),
            timestamp=np.tile(np.arange(CLICKS), users),
            split=np.tile(np.array([0] * (CLICKS - 2) + [1, 2], np.int8), users),
            users=pl.DataFrame({"user_id": list(tables.users)}),
            items=pl.DataFrame({"item_id": list(tables.items)}),
            impressions=None,
        )

    def vectors(out: Path) -> None:
        np.save(out / "items.npy", np.stack(list(tables.items.values())))
        np.save(out / "users.npy", np.stack(list(tables.users.values())))

    write_artifact(root / "corpus", "corpus", {"seed": seed}, {}, log)
    corpus = load_corpus(root / "corpus")
    inputs = {"corpus": corpus.manifest} | ({"fitted_on": fitted_on} if fitted_on else {})
    origin = space or fitted_on
    metrics = {"space": origin.fingerprint} if origin else {}
    write_artifact(root / "embeddings", "embeddings", {}, inputs, vectors, metrics=metrics)
    return World(root, corpus, load_embeddings(root / "embeddings", corpus))


def later_tables(scale: float = 1.0) -> Tables:
    """Other order, 8 items and 5 users gone, 25 items (near old ones) and 10 users new."""
    rng, old = np.random.default_rng(7), first_tables()
    kept = Tables(dict(list(old.items.items())[8:]), dict(list(old.users.items())[5:]))
    for name, count, vectors in (("item", 25, kept.items), ("user", 10, kept.users)):
        near = list(vectors.values())
        for i in range(count):
            noise = rng.normal(size=DIM).astype(np.float32)
            vectors[f"new {name} {i}"] = near[i % 4] * (scale == 1) + 0.01 * scale * noise
    return Tables(*({i: part[i] for i in rng.permutation(list(part))} for part in kept))


def first_tables() -> Tables:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, DIM))

    def side(name: str, count: int) -> Vectors:
        drawn = centres[rng.integers(4, size=count)] + 0.2 * rng.normal(size=(count, DIM))
        return {f"{name} {i}": vector for i, vector in enumerate(drawn.astype(np.float32))}

    return Tables(side("item", NUM_ITEMS), side("user", NUM_USERS))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = write_world(tmp_path_factory.mktemp("first"), first_tables())
    train_tokenizer(CONFIG, world.corpus, world.embeddings, world.root / "tokenizer")
    return world


@pytest.fixture(scope="module")
def later(first: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("later")
    return write_world(root, later_tables(), first.embeddings.manifest, seed=1)


def give(
    config: AssignConfig, first: World, world: World, out: Path, published: Path | None = None
) -> SemanticIds:
    tokenizer = first.root / "tokenizer"
    return assign(config, tokenizer, world.corpus, world.embeddings, out, published=published)


def by_id(table: SidTable) -> dict[str, tuple[bytes, bytes]]:
    assert table.ids is not None
    rows = zip(table.ids.to_list(), table.codes, table.vectors, strict=True)
    return {name: (codes.tobytes(), vector.tobytes()) for name, codes, vector in rows}


@pytest.mark.parametrize("config", POLICIES, ids=lambda c: c.collisions)
def test_published_sids_stay_and_are_not_given_again(
    first: World, later: World, tmp_path: Path, config: AssignConfig
) -> None:
    one = give(config, first, first, tmp_path / "one")
    two = give(config, first, later, tmp_path / "two", tmp_path / "one")
    assert (two.version, two.lineage) == (2, (one.fingerprint,))
    for side, gone, new in (("items", 8, 25), ("users", 5, 10)):
        a, b = getattr(one, side), getattr(two, side)
        before, after, retired = by_id(a), by_id(b), by_id(b.retired)
        assert list(after) == getattr(later.corpus, side)[f"{side[:-1]}_id"].to_list()
        assert b.level_sizes == a.level_sizes
        assert len(retired) == gone
        assert sum(name not in before for name in after) == new
        for name, bytes_of in before.items():
            assert (after | retired)[name] == bytes_of
    every = np.concatenate([two.items.codes, two.items.retired.codes])  # type: ignore[union-attr]
    assert np.unique(every, axis=0, return_counts=True)[1].max() <= (config.cap or 1)
    z = sum(book[two.items.codes[:, level]] for level, book in enumerate(two.items.codebooks))
    np.testing.assert_allclose(two.items.vectors, z, atol=1e-4)

    again = give(config, first, later, tmp_path / "again", tmp_path / "one")
    assert again.fingerprint == two.fingerprint
    # items that left come back, what was new leaves: everybody has the first SID again
    back = give(config, first, first, tmp_path / "back", tmp_path / "two")
    assert by_id(back.items) == by_id(one.items)
    assert back.version == 3
    assert back.items.retired is not None
    assert len(back.items.retired.codes) == 25
    third = give(config, first, later, tmp_path / "third", tmp_path / "back")
    assert by_id(third.items) == by_id(two.items)


def test_new_rows_get_the_codes_of_their_content(
    first: World, later: World, tmp_path: Path
) -> None:
    share = AssignConfig(collisions="share")
    give(share, first, first, tmp_path / "one")
    two = give(share, first, later, tmp_path / "two", tmp_path / "one")
    assert two.items.ids is not None
    new = two.items.ids.str.starts_with("new").to_numpy()
    _, sides = load_tokenizer(first.root / "tokenizer")
    x = np.array(later.embeddings.items)[new]
    expected = sides.items.quantize(torch.from_numpy(x))
    np.testing.assert_array_equal(two.items.codes[new], expected.codes_NL.numpy())
    np.testing.assert_allclose(two.items.vectors[new], expected.z_ND.numpy(), atol=1e-5)


def test_changed_content_does_not_move_a_published_sid(first: World, tmp_path: Path) -> None:
    tables = first_tables()
    other = Tables(*({name: -vector for name, vector in part.items()} for part in tables))
    moved = write_world(tmp_path / "moved", other, first.embeddings.manifest)
    one = give(ROOM, first, first, tmp_path / "one")
    two = give(ROOM, first, moved, tmp_path / "two", tmp_path / "one")
    assert by_id(two.items) == by_id(one.items)
    assert two.users is not None
    assert one.users is not None
    assert by_id(two.users) == by_id(one.users)


@pytest.mark.parametrize("config", POLICIES, ids=lambda c: c.collisions)
def test_only_training_interactions_decide_who_comes_first(
    first: World, tmp_path: Path, config: AssignConfig
) -> None:
    give(config, first, first, tmp_path / "one")
    tables, fitted = later_tables(), first.embeddings.manifest
    give(ROOM, first, first, tmp_path / "numbered")
    world = write_world(tmp_path / "plain", tables, fitted)
    numbered = give(ROOM, first, world, tmp_path / "sids", tmp_path / "numbered").items
    is_new = np.array([name.startswith("new") for name in tables.items])
    last = int(np.where(is_new, numbered.codes[:, -1], 0).argmax())  # of the largest group
    before = give(config, first, world, tmp_path / "before", tmp_path / "one").items
    wanted = write_world(tmp_path / "wanted", tables, fitted, held_out=last)
    after = give(config, first, wanted, tmp_path / "after", tmp_path / "one").items
    np.testing.assert_array_equal(after.codes, before.codes)


def test_drift_is_measured_and_said(
    first: World, later: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    give(ROOM, first, first, tmp_path / "one")
    with caplog.at_level(logging.INFO, "dasrec"):
        near = give(ROOM, first, later, tmp_path / "near", tmp_path / "one").manifest.metrics
    assert "25 new items: quantization error" in caplog.text
    assert "10 new users: quantization error" in caplog.text
    far_world = write_world(tmp_path / "far", later_tables(100.0), first.embeddings.manifest)
    far = give(ROOM, first, far_world, tmp_path / "far_sids", tmp_path / "one").manifest.metrics
    assert near["item/drift_new_rows"] == far["item/drift_new_rows"] == 25
    assert near["item/retired_rows"] == 8
    assert far["item/drift_error_new"] > 1.5 * near["item/drift_error_new"]
    assert far["item/drift_ks"] > near["item/drift_ks"]
    assert near["item/drift_error_published"] == pytest.approx(far["item/drift_error_published"])


def test_a_full_extra_level_does_not_grow(first: World, later: World, tmp_path: Path) -> None:
    tight = AssignConfig()
    give(tight, first, first, tmp_path / "one")
    with pytest.raises(ValueError, match=r"published extra level has \d+ codes.*extra_level_size"):
        give(tight, first, later, tmp_path / "two", tmp_path / "one")
    assert not (tmp_path / "two").exists()


def test_what_was_made_otherwise_is_refused(first: World, later: World, tmp_path: Path) -> None:
    give(ROOM, first, first, tmp_path / "one")

    def refused(match: str, config: AssignConfig = ROOM, **other: Any) -> None:
        world = other.get("world", later)
        tokenizer = other.get("tokenizer", first.root / "tokenizer")
        published = other.get("published", tmp_path / "one")
        with pytest.raises(ValueError, match=match):
            assign(
                config, tokenizer, world.corpus, world.embeddings, tmp_path / "two",
                published=published,
            )  # fmt: skip
        assert not (tmp_path / "two").exists()

    refused("follow 'extra_level'.*got 'share'", AssignConfig(collisions="share"))
    train_tokenizer(CONFIG, first.corpus, first.embeddings, tmp_path / "other", seed=1)
    refused("published SIDs come from tokenizer", tokenizer=tmp_path / "other")
    refused("embeddings are of another corpus", world=later._replace(corpus=first.corpus))
    unfitted = write_world(tmp_path / "unfitted", later_tables(), seed=2)
    refused("--fitted-on the embeddings of the published SIDs", world=unfitted)
    narrow = Tables(*({n: v[:5] for n, v in part.items()} for part in later_tables()))
    thin = write_world(tmp_path / "thin", narrow, first.embeddings.manifest, seed=3)
    refused("takes vectors of width 6, got 5", world=thin)
    shutil.copytree(tmp_path / "one", tmp_path / "nameless")
    (tmp_path / "nameless" / "items.ids.parquet").unlink()
    manifest = (tmp_path / "nameless" / "manifest.json").read_text()
    (tmp_path / "nameless" / "manifest.json").write_text(
        manifest.replace("items.ids.parquet", "items.json")
    )
    refused("table of items has no ids", published=tmp_path / "nameless")


def test_embeddings_may_be_fitted_along_the_chain(
    first: World, later: World, tmp_path: Path
) -> None:
    """first -> later -> last, encoders fitted on `first`; the tokenizer is trained on `later`."""
    root, fitted = first.embeddings.manifest, later.embeddings.manifest
    train_tokenizer(CONFIG, later.corpus, later.embeddings, tmp_path / "tokenizer")
    trained = World(tmp_path, later.corpus, later.embeddings)
    one = give(ROOM, trained, later, tmp_path / "one")
    last = write_world(tmp_path / "last", later_tables(), fitted, seed=4, space=root)
    two = give(ROOM, trained, last, tmp_path / "two", tmp_path / "one")
    assert by_id(two.items) == by_id(one.items)
