import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dasrec.core import Corpus, Embeddings, load_manifest
from dasrec.tokenizer import (
    AlignmentConfig,
    AssignConfig,
    DasConfig,
    TigerConfig,
    assign,
    load_tokenizer,
    train_tokenizer,
)
from dasrec.tokenizer.methods.random_ids import RandomConfig
from dasrec.tokenizer.methods.res_kmeans import ResKmeansConfig
from dasrec.tokenizer.train import build_objective
from dasrec.tokenizer.trainer import Trainer

MakeWorld = Callable[..., tuple[Corpus, Embeddings]]
World = tuple[Corpus, Embeddings]

SMALL = DasConfig(
    level_sizes=(8, 8), code_dim=8, hidden=(32,), epochs=4, continuous_epochs=1, batch_size=64
)
LOSSES = {
    *(f"{s}/{name}" for s in ("item", "user") for name in ("recon", "codebook", "commitment")),
    *(f"cf/{loss}" for loss in ("bias", "unbias", "sim", "orth", "reg")),
    *(f"align/{f}_{side}" for f in ("u2i", "same", "cooccur") for side in ("item", "user")),
}  # fmt: skip


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_every_loss_and_the_codebook_usage_are_logged(world: World, tmp_path: Path) -> None:
    train_tokenizer(SMALL, *world, tmp_path / "t")
    first, *_, last = lines(tmp_path / "t")
    assert set(last) >= LOSSES | {"item/usage_0", "user/perplexity_1", "total"}
    assert last["total"] == pytest.approx(sum(last[name] for name in LOSSES), rel=1e-4)
    assert "item/codebook" not in first  # nothing is quantized yet
    assert last["item/recon"] < first["item/recon"]
    assert last["align/same_item"] < first["align/same_item"] + 3  # beta rises from 0
    assert not list(tmp_path.glob(".t*"))


def test_two_runs_are_equal_and_seeds_differ(world: World, tmp_path: Path) -> None:
    one = train_tokenizer(SMALL, *world, tmp_path / "one")
    two = train_tokenizer(SMALL, *world, tmp_path / "two")
    other = train_tokenizer(SMALL, *world, tmp_path / "other", seed=1)
    assert one.fingerprint == two.fingerprint
    assert one.files["model.safetensors"] != other.files["model.safetensors"]


def test_an_interrupted_run_ends_with_the_same_bytes(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_tokenizer(SMALL, *world, tmp_path / "whole")
    step, calls = Trainer._step, 0

    def failing(self: Trainer, *args: object) -> dict[str, torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls == 13:  # 5 steps per epoch: in the middle of the third
            raise KeyboardInterrupt
        return step(self, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", failing)
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer(SMALL, *world, tmp_path / "resumed")
    assert not (tmp_path / "resumed").exists()
    calls = 100
    resumed = train_tokenizer(SMALL, *world, tmp_path / "resumed")
    assert resumed.fingerprint == whole.fingerprint


def test_valid_and_test_rows_change_nothing(make_world: MakeWorld, tmp_path: Path) -> None:
    files = [
        train_tokenizer(SMALL, *make_world(f"w{seed}", held_out_seed=seed), tmp_path / f"t{seed}")
        for seed in (1, 2)
    ]
    assert files[0].inputs != files[1].inputs
    assert files[0].files == files[1].files


def test_a_loaded_tokenizer_gives_the_codes_of_the_trained_one(
    world: World, tmp_path: Path
) -> None:
    train_tokenizer(SMALL, *world, tmp_path / "t")
    sids = assign(AssignConfig(collisions="share"), tmp_path / "t", *world, tmp_path / "s")
    config, sides = load_tokenizer(tmp_path / "t")
    assert config == SMALL
    for side, table, x in (
        (sides.items, sids.items, world[1].items),
        (sides.users, sids.users, world[1].users),
    ):
        assert table is not None
        encoded = side.quantize(torch.from_numpy(np.array(x)))
        np.testing.assert_array_equal(encoded.codes_NL.numpy(), table.codes)
        z = side.quantizer.decode(encoded.codes_NL)
        np.testing.assert_allclose(z, table.vectors, atol=1e-5)
        unit = torch.nn.functional.normalize(torch.from_numpy(np.array(x)))
        error = (unit - side.decoder(z)).square().sum(1).mean().item()
        assert side.reconstruction_error(torch.from_numpy(np.array(x)), z) == pytest.approx(error)
    manifest = load_manifest(tmp_path / "s", "semantic_ids")
    assert set(manifest.inputs) == {"corpus", "embeddings", "tokenizer"}
    assert 0 <= manifest.metrics["alignment_recall@10"] <= 1


@pytest.mark.parametrize("policy", ["extra_level", "reassign_last"])
def test_sids_are_unique_and_reproducible(world: World, tmp_path: Path, policy: str) -> None:
    config = SMALL.model_copy(update={"level_sizes": (4, 32)})
    train_tokenizer(config, *world, tmp_path / "t")
    assign_config = AssignConfig(collisions=policy)  # type: ignore[arg-type]
    one = assign(assign_config, tmp_path / "t", *world, tmp_path / "one")
    two = assign(assign_config, tmp_path / "t", *world, tmp_path / "two")
    assert one.fingerprint == two.fingerprint
    assert len(np.unique(one.items.codes, axis=0)) == world[0].num_items
    assert one.manifest.metrics["item/collision_rate"] == 0


def test_without_alpha_and_beta_only_the_autoencoders_are_left(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("built although alpha = beta = 0")

    for name in ("Icdm", "PairSampler"):
        monkeypatch.setattr(f"dasrec.tokenizer.methods.das.{name}", refuse)
    config = SMALL.model_copy(update={"alpha": 0.0, "beta": 0.0})
    train_tokenizer(config, *world, tmp_path / "plain")
    semantic = {name for name in LOSSES if name.startswith(("item", "user"))}
    assert {name for name in lines(tmp_path / "plain")[-1] if name in LOSSES} == semantic

    same = config.model_copy(update={"user_side": False})
    train_tokenizer(same, *world, tmp_path / "items")
    fields = set(TigerConfig.model_fields) - {"method"}
    tiger = TigerConfig(**{name: getattr(same, name) for name in fields})
    train_tokenizer(tiger, *world, tmp_path / "tiger")
    one, two = (
        assign(AssignConfig(), tmp_path / name, *world, tmp_path / f"{name}_sids")
        for name in ("items", "tiger")
    )
    assert two.users is None
    np.testing.assert_array_equal(one.items.codes, two.items.codes)  # one and the same RQ-VAE


def test_families_and_sides_switch_off(world: World, tmp_path: Path) -> None:
    only = AlignmentConfig(u2i=0.0, same=0.0)
    config = SMALL.model_copy(update={"alpha": 0.0, "alignment": only, "user_side": False})
    train_tokenizer(config, *world, tmp_path / "t")
    last = lines(tmp_path / "t")[-1]
    assert {name for name in last if name.startswith(("align", "cf"))} == {"align/cooccur_item"}


def test_alignment_brings_users_to_the_items_they_like(world: World, tmp_path: Path) -> None:
    """Content says which items are alike and which users are, but not who likes what."""
    corpus, _ = world
    starts = corpus.train_sequences.starts[1:-1]
    by_user = np.split(corpus.train_sequences.values, starts)
    taste_U = np.array([np.bincount(items % 4).argmax() for items in by_user])
    taste_I = np.arange(corpus.num_items) % 4
    share = {}
    for name, weight in (("das", 1.0), ("plain", 0.0)):
        config = SMALL.model_copy(
            update={"alpha": weight, "beta": weight / 2, "epochs": 60, "learning_rate": 5e-3}
        )
        train_tokenizer(config, *world, tmp_path / name)
        sids = assign(AssignConfig(), tmp_path / name, *world, tmp_path / f"{name}_sids")
        assert sids.users is not None
        z_U, z_I = (
            table.vectors / np.linalg.norm(table.vectors, axis=1, keepdims=True)
            for table in (sids.users, sids.items)
        )
        nearest = np.argsort(-z_U @ z_I.T, axis=1)[:, :5]
        share[name] = (taste_I[nearest] == taste_U[:, None]).mean()
    assert share["plain"] < 0.5  # 1/4 by chance
    assert share["das"] > 0.75


def test_bad_input_is_refused_before_any_work(world: World, tmp_path: Path) -> None:
    corpus, embeddings = world
    large = SMALL.model_copy(update={"level_sizes": (8, 41)})
    with pytest.raises(ValueError, match=r"level_sizes.*items \(40\), got 41"):
        train_tokenizer(large, corpus, embeddings, tmp_path / "t")
    short = Embeddings(embeddings.manifest, embeddings.items[:-1], embeddings.users)
    with pytest.raises(ValueError, match="40 items, got 39"):
        train_tokenizer(SMALL, corpus, short, tmp_path / "t")
    users = np.array(embeddings.users)
    users[3] = np.nan
    broken = dataclasses.replace(embeddings, users=users)
    projected = ResKmeansConfig(level_sizes=(8,), align_epochs=1)  # reads users, gives them no SIDs
    with pytest.raises(ValueError, match=r"embeddings\.users: expected finite values"):
        train_tokenizer(projected, corpus, broken, tmp_path / "t")
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="choose another folder"):
        train_tokenizer(SMALL, corpus, embeddings, tmp_path / "there")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there", "world"]


def test_a_loss_that_diverges_is_named(world: World, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(ValueError, match=r"the loss of epoch 1 is (inf|nan).*lower learning_rate"):
        train_tokenizer(config, *world, tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_a_warm_start_that_would_not_be_used_is_refused(world: World, tmp_path: Path) -> None:
    config = RandomConfig(level_sizes=(8,))
    train_tokenizer(config, *world, tmp_path / "t")
    with pytest.raises(ValueError, match="warm_start: 'random' sets its codewords at once"):
        train_tokenizer(config, *world, tmp_path / "again", warm_start=tmp_path / "t")


def test_batches_are_on_the_device_of_the_data(world: World) -> None:
    objective = build_objective(TigerConfig(level_sizes=(8,)), *world, device="meta")
    items, users = next(objective.batches("main", np.random.default_rng(0)))
    assert items.device == users.device == objective.data.items_IX.device == torch.device("meta")
