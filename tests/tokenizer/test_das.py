"""What DAS's options change, seen from its losses and gradients."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dasrec.core import Corpus, Embeddings
from dasrec.tokenizer import AlignmentConfig, AssignConfig, DasConfig, assign, train_tokenizer
from dasrec.tokenizer.methods.das import Das
from dasrec.tokenizer.objective import Step
from dasrec.tokenizer.train import build_objective

MakeWorld = Callable[..., tuple[Corpus, Embeddings]]
World = tuple[Corpus, Embeddings]

SMALL: dict[str, Any] = {
    "level_sizes": (8, 8),
    "code_dim": 8,
    "hidden": (32,),
    "epochs": 3,
    "continuous_epochs": 1,
    "batch_size": 64,
}


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()


def make(world: World, **options: Any) -> Das:
    torch.manual_seed(0)
    objective = build_objective(DasConfig(**(SMALL | options)), *world)
    assert isinstance(objective, Das)
    return objective


def first_losses(objective: Das, phase: str = "main", progress: float = 0.5) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    batch = next(iter(objective.batches(phase, rng)))
    return objective.losses(batch, Step(phase, progress, True))


def gradients(objective: Das, names: str, **where: Any) -> dict[str, bool]:
    """Which parts have a gradient from the losses that start with `names`."""
    losses = first_losses(objective, **where)
    objective.zero_grad()
    torch.stack([v for k, v in losses.items() if k.startswith(names)]).sum().backward()
    parts = {"items": objective.sides.items, "users": objective.sides.users, "cf": objective.icdm}
    return {
        name: any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
        for name, part in parts.items()
        if part is not None
    }


def test_the_alignment_trains_the_cf_model_unless_it_is_cut_off(world: World) -> None:
    assert gradients(make(world), "align") == {"items": True, "users": True, "cf": True}
    cut = make(world, alignment={"cf_stopgrad": True})
    assert gradients(cut, "align") == {"items": True, "users": True, "cf": False}
    assert gradients(cut, "cf") == {"items": False, "users": False, "cf": True}


def test_a_side_alone(world: World) -> None:
    items = first_losses(make(world, user_side=False))
    users = first_losses(make(world, item_side=False))
    assert {name for name in items if name.startswith("align")} == {
        "align/u2i_item",
        "align/same_item",
        "align/cooccur_item",
    }
    assert {name for name in users if name.startswith("align")} == {
        "align/u2i_user",
        "align/same_user",
        "align/cooccur_user",
    }
    assert "item/recon" in users  # items have SIDs all the same, from content alone
    assert not any(name.startswith("user") for name in items)


def test_weights_scale_their_families(world: World) -> None:
    plain = first_losses(make(world))
    weighted = first_losses(
        make(world, alpha=3.0, beta=1.0, alignment={"u2i": 2.0, "same": 0.0}, commitment=0.5)
    )
    assert weighted["align/u2i_item"].item() == pytest.approx(
        4 * plain["align/u2i_item"].item(), rel=1e-5
    )  # beta 0.5 -> 1, u2i 1 -> 2
    assert "align/same_user" not in weighted
    assert weighted["cf/bias"].item() == pytest.approx(3 * plain["cf/bias"].item(), rel=1e-5)
    assert weighted["item/commitment"].item() == pytest.approx(
        2 * plain["item/commitment"].item(), rel=1e-5
    )


def test_beta_rises_over_its_warm_up(world: World) -> None:
    objective = make(world, beta_warmup=0.2)
    late = first_losses(objective, progress=0.3)["align/same_item"].item()
    for progress in (0.05, 0.1, 0.2):
        loss = first_losses(objective, progress=progress)["align/same_item"].item()
        assert loss == pytest.approx(late * min(1, progress / 0.2), rel=1e-5)
    assert "align/same_item" not in first_losses(objective, progress=0.0)


def test_a_learned_temperature_starts_at_tau_and_has_a_gradient(world: World) -> None:
    fixed, learned = make(world), make(world, alignment={"learn_tau": True})
    one, two = first_losses(fixed), first_losses(learned)
    for name, loss in one.items():
        assert two[name].item() == pytest.approx(loss.item(), rel=1e-4)
    torch.stack([loss for name, loss in two.items() if "u2i" in name]).sum().backward()
    assert learned.log_scales["u2i"].grad is not None
    assert learned.log_scales["same"].grad is None  # one for each family


def test_cf_first_trains_the_cf_model_then_freezes_it(world: World) -> None:
    objective = make(world, schedule="cf_first", first_epochs=2)
    assert [tuple(phase) for phase in objective.phases] == [("cf_first", 2, None), ("main", 3, 1)]
    first = first_losses(objective, phase="cf_first")
    assert {name.split("/")[0] for name in first} == {"cf"}
    main = first_losses(objective)
    assert {name.split("/")[0] for name in main} == {"item", "user", "align"}
    assert gradients(objective, "align") == {"items": True, "users": True, "cf": False}


def test_align_first_quantizes_a_frozen_projection(world: World, tmp_path: Path) -> None:
    objective = make(world, schedule="align_first", first_epochs=2)
    first = first_losses(objective, phase="align_first")
    assert {name.split("/")[0] for name in first} == {"project"}
    main = first_losses(objective)
    assert {name.split("/")[0] for name in main} == {"item", "user"}
    torch.stack(list(main.values())).sum().backward()
    front = objective.sides.items.front
    assert all(p.grad is None for p in front.parameters())
    assert all(p.grad is not None for p in objective.sides.items.encoder.parameters())

    longer = {"schedule": "align_first", "first_epochs": 8, "epochs": 150}
    config = DasConfig(**(SMALL | longer))
    train_tokenizer(config, *world, tmp_path / "t")
    sids = assign(AssignConfig(), tmp_path / "t", *world, tmp_path / "s")
    assert sids.manifest.metrics["item/reconstruction_error"] < 1


def test_two_stages_need_epochs_for_the_first() -> None:
    with pytest.raises(ValueError, match="'cf_first' needs at least 1, got 0"):
        DasConfig(schedule="cf_first")
    with pytest.raises(ValueError, match="'one_stage' needs 0, got 3"):
        DasConfig(first_epochs=3)
    with pytest.raises(ValueError, match="both false"):
        DasConfig(user_side=False, item_side=False)


def test_options_without_effect_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'cf_first' trains the CF model .* above 0, got 0"):
        DasConfig(schedule="cf_first", first_epochs=1, alpha=0)
    with pytest.raises(ValueError, match=r"tau: at least 0\.01 with learn_tau, got 0\.005"):
        AlignmentConfig(learn_tau=True, tau=0.005)
    with pytest.raises(ValueError, match="a modality can be named once only, got text, text"):
        DasConfig(modalities=("text", "text"))


@pytest.mark.parametrize(
    "options",
    [
        {"icdm": {"variant": "dice"}},
        {"icdm": {"variant": "none"}, "alignment": {"learn_tau": True}},
        {"codebook_update": "ema", "entropy": 0.1},
        {"sinkhorn": "all"},
        {"schedule": "cf_first", "first_epochs": 1},
        {"level_sizes": (8, 4, 2)},
    ],
    ids=str,
)
def test_every_variant_trains_and_resumes_nothing_left_open(
    world: World, tmp_path: Path, options: dict[str, Any]
) -> None:
    config = DasConfig(**(SMALL | options))
    one = train_tokenizer(config, *world, tmp_path / "one")
    two = train_tokenizer(config, *world, tmp_path / "two")
    assert one.fingerprint == two.fingerprint
    sids = assign(AssignConfig(), tmp_path / "one", *world, tmp_path / "s")
    assert sids.items.level_sizes[: len(config.level_sizes)] == config.level_sizes


def test_a_warm_start_goes_on_from_the_weights(world: World, tmp_path: Path) -> None:
    config = DasConfig(**(SMALL | {"epochs": 12}))
    cold = train_tokenizer(config, *world, tmp_path / "cold")
    still = config.model_copy(
        update={
            "epochs": 1,
            "continuous_epochs": 0,
            "learning_rate": 1e-12,
            "restart_until": 0.0,
            "weight_decay": 0.0,
            "icdm": config.icdm.model_copy(update={"learning_rate": 1e-12}),
        }
    )
    warm = train_tokenizer(still, *world, tmp_path / "warm", warm_start=tmp_path / "cold")
    assert warm.inputs["warm_start"] == cold.fingerprint
    one, two = (
        assign(AssignConfig(), tmp_path / name, *world, tmp_path / f"{name}_sids")
        for name in ("cold", "warm")
    )
    np.testing.assert_array_equal(one.items.codes, two.items.codes)
    moved = train_tokenizer(config, *world, tmp_path / "moved", warm_start=tmp_path / "cold")
    assert moved.metrics["item/recon"] < cold.metrics["item/recon"]
    other = config.model_copy(update={"level_sizes": (8, 4)})
    with pytest.raises(
        ValueError, match=r"codebooks.1' of .* has shape \(8, 8\), expected \(4, 8\)"
    ):
        train_tokenizer(other, *world, tmp_path / "other", warm_start=tmp_path / "cold")
