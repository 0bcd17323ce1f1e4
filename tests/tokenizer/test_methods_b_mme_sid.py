"""MMD against a double loop, the joint side against one residual quantizer, the whole method."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.tokenizer.modalities import with_modalities

from dasrec.core import Corpus, Embeddings
from dasrec.tokenizer import AssignConfig, assign, load_tokenizer, train_tokenizer
from dasrec.tokenizer.joint import JointSide
from dasrec.tokenizer.methods.mme_sid import MmeSid, MmeSidConfig, mme_sid_sides
from dasrec.tokenizer.mmd import mmd
from dasrec.tokenizer.objective import Sizes, Step
from dasrec.tokenizer.quantizer import ResidualQuantizer
from dasrec.tokenizer.train import build_objective

MakeWorld = Callable[..., tuple[Corpus, Embeddings]]

SMALL = MmeSidConfig(
    modalities=("clicks", "text"), level_sizes=(6, 12), code_dim=5, hidden=(16,), epochs=8,
    continuous_epochs=3, batch_size=20,
)  # fmt: skip


def test_mmd_is_the_double_loop() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 3)), rng.normal(0.5, 2, size=(5, 3))
    rows = [*a, *b]
    distances = [((x - y) ** 2).sum() for x in rows for y in rows]
    width = 0.5 * sum(distances) / len(distances)

    def mean(left: np.ndarray, right: np.ndarray) -> float:
        kernels = [math.exp(-((x - y) ** 2).sum() / (2 * width)) for x in left for y in right]
        return sum(kernels) / len(kernels)

    expected = mean(a, a) + mean(b, b) - 2 * mean(a, b)
    found = mmd(torch.from_numpy(a), torch.from_numpy(b))
    assert found.item() == pytest.approx(expected)
    assert mmd(torch.from_numpy(a), torch.from_numpy(a[::-1].copy())).item() < 1e-12
    same = torch.ones(4, 2, requires_grad=True)  # no distance at all
    mmd(same, torch.ones(4, 2)).backward()
    assert same.grad is not None
    assert not same.grad.any()


def joint_side() -> tuple[JointSide, torch.Tensor]:
    torch.manual_seed(0)
    config = SMALL.model_copy(update={"level_sizes": (6, 4, 3)})
    side = mme_sid_sides(config, Sizes({"a": 4, "b": 7}, 3)).items
    return side, torch.randn(30, 11)


def test_the_joint_side_is_one_residual_quantizer() -> None:
    side, x = joint_side()
    encoded = side.quantize(x)
    books = side.codebooks
    assert [book.shape for book in books] == [(k, 10) for k in (6, 6, 4, 4, 3, 3)]
    whole = ResidualQuantizer(SMALL.model_copy(update={"level_sizes": (1,) * 6, "code_dim": 10}))
    for level, book in enumerate(books):
        whole.codebooks[level] = torch.nn.Parameter(book)
    codes, z, residuals = whole.encode(encoded.h_ND)
    torch.testing.assert_close(encoded.codes_NL, codes)
    torch.testing.assert_close(encoded.z_ND, z)
    torch.testing.assert_close(encoded.residual_ND, residuals[-1])


def test_its_levels_are_interleaved_and_its_blocks_those_of_the_modalities() -> None:
    side, x = joint_side()
    encoded = side.quantize(x)
    for number, columns in enumerate((x[:, :4], x[:, 4:])):
        alone = side.parts[number].quantize(columns)  # type: ignore[operator]
        torch.testing.assert_close(encoded.codes_NL[:, number::2], alone.codes_NL)
        torch.testing.assert_close(encoded.z_ND[:, 5 * number : 5 * number + 5], alone.z_ND)
    errors = [
        (torch.nn.functional.normalize(columns) - part.decoder(z)).square().sum(1).mean().item()  # type: ignore[operator]
        for part, columns, z in zip(
            side.parts, (x[:, :4], x[:, 4:]), encoded.z_ND.split(5, 1), strict=True
        )
    ]
    found = side.reconstruction_error(x, encoded.z_ND)
    assert found == pytest.approx(sum(errors) / 2, rel=1e-5)


@pytest.mark.parametrize("reconstruction", ["mmd", "mse"])
def test_the_loss_is_that_of_the_paper(make_world: MakeWorld, reconstruction: str) -> None:
    config = SMALL.model_copy(update={"reconstruction": reconstruction, "sinkhorn": "none"})
    objective = build_objective(config, *with_modalities(make_world(), clicks=7))
    assert isinstance(objective, MmeSid)
    item_B = torch.arange(15)
    losses = objective.losses((item_B,), Step("main", 0.5, True))
    z: list[torch.Tensor] = []
    for name, part, x in objective.autoencoders():
        target = torch.nn.functional.normalize(x[item_B])
        encoded = part.quantize(x[item_B])
        decoded = part.decoder(encoded.z_ND)
        error = (
            mmd(decoded, target)
            if reconstruction == "mmd"
            else (decoded - target).square().sum(1).mean()
        )
        torch.testing.assert_close(losses.pop(f"{name}/recon"), 3 * error)
        left = encoded.residual_ND.square().sum(1) + (encoded.h_ND - encoded.z_ND).square().sum(1)
        torch.testing.assert_close(losses.pop(f"{name}/codebook"), left.mean(), check_device=False)
        z.append(encoded.z_ND)
    torch.testing.assert_close(losses.pop("align/clicks_text"), 0.01 * mmd(z[0], z[1]))
    assert set(losses) == {"item/clicks/commitment", "item/text/commitment"}


def test_it_trains_and_gives_out_reproducible_sids(make_world: MakeWorld, tmp_path: Path) -> None:
    corpus, embeddings = with_modalities(make_world(), clicks=7)
    embeddings.more["clicks"][:5] = 0  # items that nobody clicked
    world = corpus, embeddings
    one = train_tokenizer(SMALL, *world, tmp_path / "one")
    two = train_tokenizer(SMALL, *world, tmp_path / "two")
    assert one.fingerprint == two.fingerprint
    log = [json.loads(line) for line in (tmp_path / "one/metrics.jsonl").read_text().splitlines()]
    assert {"item/clicks/usage_0", "item/text/perplexity_1"} <= set(log[-1])
    sids = assign(
        AssignConfig(collisions="reassign_last"), tmp_path / "one", *world, tmp_path / "s"
    )
    config, sides = load_tokenizer(tmp_path / "one")
    assert config == SMALL
    assert sids.items.level_sizes == (6, 6, 12, 12)
    assert len(np.unique(sids.items.codes, axis=0)) == corpus.num_items
    books = sids.items.codebooks
    z = sum(book[sids.items.codes[:, level]] for level, book in enumerate(books))
    np.testing.assert_allclose(z, sids.items.vectors, atol=1e-5)
    x = torch.from_numpy(np.concatenate([embeddings.more["clicks"], embeddings.items], 1))
    torch.testing.assert_close(  # only last codes were moved
        sides.items.quantize(x).codes_NL[:, :-1],
        torch.tensor(sids.items.codes[:, :-1].astype(np.int64)),
    )


def test_one_modality_is_refused(make_world: MakeWorld, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"modalities": None})
    with pytest.raises(ValueError, match="'mme_sid' needs at least two item modalities"):
        train_tokenizer(config, *make_world(), tmp_path / "t")
    assert not list(tmp_path.glob("*t"))
