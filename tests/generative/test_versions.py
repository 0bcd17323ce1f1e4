"""A generator and a later version of the semantic IDs it was trained with."""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.generative.world import NUM_ITEMS, World, pretrain_config, sft_config

from dasrec.core import (
    Corpus,
    load_corpus,
    load_recommendations,
    load_sids,
    save_sids_payload,
    write_artifact,
)
from dasrec.core.corpus import save_corpus_payload
from dasrec.generative import RetrieveConfig, load_generator, pretrain, retrieve, sft

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is deprecated and will be removed:FutureWarning",
    "ignore:Could not find a config file:UserWarning",
)
NEW_CODES = np.array([[3, 0, 0], [3, 0, 1]], np.uint16)  # the 48 old items leave code 3 free


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("versions")
    config = pretrain_config(validation_queries=0, tasks={"next_item": 1.0})
    pretrain(config, world.corpus, world.sids, root / "base")
    sft(sft_config(validation_queries=0), root / "base", world.corpus, world.sids, root / "lm")
    return root


def corpus_with_more(corpus: Corpus, path: Path) -> Corpus:
    """The same log; two items more, which nobody clicked."""
    more = pl.DataFrame({"item_id": ["new1", "new2"], "title": ["thing one", "thing two"]})

    def payload(out: Path) -> None:
        save_corpus_payload(
            out,
            user_idx=corpus.user_idx,
            item_idx=corpus.item_idx,
            timestamp=corpus.timestamp,
            split=corpus.split,
            users=corpus.users,
            items=pl.concat([corpus.items, more]),
            impressions=None,
        )

    write_artifact(path, "corpus", {}, {}, payload)
    return load_corpus(path)


def later_version(world: World, root: Path, lineage: tuple[str, ...], size: int = 4) -> World:
    corpus = corpus_with_more(world.corpus, root / "corpus")
    old = world.sids.items
    codes = np.concatenate([old.codes, NEW_CODES])
    items = dataclasses.replace(
        old, codes=codes, vectors=np.zeros((len(codes), 2), np.float32), level_sizes=(size, 4, 4)
    )

    def payload(out: Path) -> None:
        save_sids_payload(out, items, world.sids.users, lineage)

    write_artifact(root / "sids", "semantic_ids", {}, {"corpus": corpus.manifest}, payload)
    return World(corpus, load_sids(root / "sids", corpus.manifest))


def test_an_old_generator_generates_new_items(world: World, trained: Path, tmp_path: Path) -> None:
    new = later_version(world, tmp_path, (world.sids.fingerprint,))
    config = RetrieveConfig(num_beams=64, num_items=NUM_ITEMS + 2)  # beams for every item
    for model in ("base", "lm"):
        retrieve(config, trained / model, new.corpus, new.sids, tmp_path / f"of_{model}")
        lists = load_recommendations(tmp_path / f"of_{model}", new.corpus)
        assert (np.sort(lists.item_idx, axis=1) == np.arange(NUM_ITEMS + 2)).all()

        retrieve(config, trained / model, world.corpus, world.sids, tmp_path / f"old_{model}")
        before = load_recommendations(tmp_path / f"old_{model}", world.corpus)
        score, old_score = (
            np.take_along_axis(found.score, np.argsort(found.item_idx, axis=1), axis=1)
            for found in (lists, before)
        )
        np.testing.assert_allclose(score[:, :NUM_ITEMS], old_score[:, 2:], atol=1e-4)


def test_tuning_goes_on_with_a_later_version(world: World, trained: Path, tmp_path: Path) -> None:
    new = later_version(world, tmp_path, (world.sids.fingerprint,))
    config = sft_config(validation_queries=0)
    sft(config, trained / "base", new.corpus, new.sids, tmp_path / "lm")
    assert load_generator(tmp_path / "lm", new.sids).manifest.inputs["semantic_ids"] == (
        new.sids.fingerprint
    )
    with pytest.raises(ValueError, match="which do not extend"):  # not the other way round
        load_generator(tmp_path / "lm", world.sids)


def test_foreign_tables_are_refused(world: World, trained: Path, tmp_path: Path) -> None:
    foreign = later_version(world, tmp_path / "foreign", ("0123456789abcdef",))
    for model in ("base", "lm"):
        with pytest.raises(ValueError, match="was built from semantic_ids"):
            load_generator(trained / model, foreign.sids)
    with pytest.raises(ValueError, match="was built from semantic_ids"):
        sft(sft_config(), trained / "base", foreign.corpus, foreign.sids, tmp_path / "lm")
    larger = later_version(world, tmp_path / "larger", (world.sids.fingerprint,), size=5)
    with pytest.raises(ValueError, match=r"items levels of \(4, 4, 4\) codes.*\(5, 4, 4\)"):
        load_generator(trained / "lm", larger.sids)
