import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dasrec.core import Corpus, Embeddings
from dasrec.tokenizer import AssignConfig, assign, load_tokenizer, train_tokenizer
from dasrec.tokenizer.diversity import DiverseQuantizer, diversity, other_of_group
from dasrec.tokenizer.methods.letter import LetterConfig, collaborative

MakeWorld = Callable[..., tuple[Corpus, Embeddings]]
World = tuple[Corpus, Embeddings]

SMALL = LetterConfig(
    level_sizes=(8, 8), code_dim=8, hidden=(32,), epochs=4, continuous_epochs=1, groups=2
)  # fmt: skip


def with_cf(world: World, width: int) -> World:
    """Collaborative vectors that no other modality tells about; item 3 has none."""
    vectors = np.random.default_rng(5).normal(size=(world[0].num_items, width)).astype(np.float32)
    vectors[3] = 0
    return world[0], dataclasses.replace(world[1], more={"cf": vectors})


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return with_cf(make_world(), 8)


def test_collaborative_loss_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    z, cf = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    cf[2] = 0
    rows, total = [0, 1, 3, 4], 0.0
    for n in rows:
        score = {m: float(z[n] @ cf[m]) / 0.5 for m in rows}
        total -= score[n] - math.log(sum(math.exp(s) for s in score.values()))
    loss = collaborative(torch.from_numpy(z), torch.from_numpy(cf), 0.5)
    assert loss.item() == pytest.approx(total / 4)
    assert collaborative(torch.from_numpy(z), torch.zeros(5, 3), 1.0).item() == 0


def test_diversity_loss_against_a_loop() -> None:
    rng = np.random.default_rng(1)
    book = rng.normal(size=(6, 4))
    codes, positives = [0, 0, 5, 2], [1, 4, 3, 0]
    total = 0.0
    for code, positive in zip(codes, positives, strict=True):
        others = [j for j in range(6) if j != code]
        norm = math.log(sum(math.exp(book[code] @ book[j]) for j in others))
        total -= book[code] @ book[positive] - norm
    loss = diversity(torch.from_numpy(book), torch.tensor(codes), torch.tensor(positives))
    assert loss.item() == pytest.approx(total / 4)


def test_diversity_gradient_reaches_codewords_and_is_finite() -> None:
    book = torch.randn(6, 4, requires_grad=True)
    diversity(book, torch.tensor([0, 1]), torch.tensor([1, 2])).backward()
    assert book.grad is not None
    assert torch.isfinite(book.grad).all()
    assert (book.grad[0] != 0).any()


def test_a_codeword_alone_in_its_group_adds_nothing() -> None:
    group, codes = torch.tensor([0, 1, 1]), torch.tensor([0, 1])
    positives = other_of_group(group, codes)
    assert positives.tolist() == [0, 2]
    book = torch.randn(3, 4, requires_grad=True)
    loss = diversity(book, codes, positives)
    loss.backward()
    assert loss.item() == pytest.approx(diversity(book, codes[1:], positives[1:]).item() / 2)
    assert book.grad is not None
    assert torch.isfinite(book.grad).all()


def test_positives_are_all_the_others_of_the_group_equally_often() -> None:
    torch.manual_seed(0)
    group = torch.tensor([0, 1, 0, 1, 0, 0])
    for code, others in ((0, [2, 4, 5]), (4, [0, 2, 5]), (3, [1])):
        drawn = other_of_group(group, torch.full((6000,), code))
        count = torch.bincount(drawn, minlength=6)
        assert torch.nonzero(count).flatten().tolist() == others
        assert count[others].min() > 0.9 * 6000 / len(others)


def test_the_quantizer_adds_the_loss_of_every_level() -> None:
    torch.manual_seed(0)
    quantizer = DiverseQuantizer(SMALL)
    quantizer.regroup(4, seed=0)  # groups of two: the positive is certain
    h = torch.randn(16, 8)
    codes, _, losses = quantizer(h)
    expected = 0.0
    for level, group in enumerate(quantizer.groups):
        assert torch.bincount(group).tolist() == [2, 2, 2, 2]
        positive = [
            next(j for j in range(8) if j != c and group[j] == group[c])
            for c in codes[:, level].tolist()
        ]
        book = quantizer.codebooks[level].detach()
        expected += diversity(book, codes[:, level], torch.tensor(positive)).item()
    assert losses["diversity"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("width", [8, 5])
def test_trains_assigns_and_loads(make_world: MakeWorld, tmp_path: Path, width: int) -> None:
    world = with_cf(make_world(), width)
    one = train_tokenizer(SMALL, *world, tmp_path / "t")
    two = train_tokenizer(SMALL, *world, tmp_path / "again")
    assert one.fingerprint == two.fingerprint
    last = json.loads((tmp_path / "t/metrics.jsonl").read_text().splitlines()[-1])
    assert {"item/collaborative", "item/diversity", "item/usage_1"} <= set(last)
    sids = assign(AssignConfig(collisions="share"), tmp_path / "t", *world, tmp_path / "s")
    config, sides = load_tokenizer(tmp_path / "t")
    assert config == SMALL
    encoded = sides.items.quantize(torch.from_numpy(np.array(world[1].items)))
    np.testing.assert_array_equal(encoded.codes_NL.numpy(), sids.items.codes)


def test_collaborative_vectors_shape_the_ids(world: World, tmp_path: Path) -> None:
    """Two clusters of taste that content does not tell apart: with alpha they get other z."""
    taste = np.arange(world[0].num_items) % 2
    vectors = np.where(taste[:, None] == np.arange(2), 4, -4).astype(np.float32).repeat(4, axis=1)
    world = world[0], dataclasses.replace(world[1], more={"cf": vectors})
    gap = {}
    for alpha in (0.0, 1.0):
        config = SMALL.model_copy(update={"alpha": alpha, "epochs": 40, "continuous_epochs": 15})
        train_tokenizer(config, *world, tmp_path / f"t{alpha}")
        _, sides = load_tokenizer(tmp_path / f"t{alpha}")
        z = sides.items.quantize(torch.from_numpy(np.array(world[1].items))).z_ND.numpy()
        score = z @ vectors.T
        gap[alpha] = np.mean(score[taste == 0][:, 0] - score[taste == 0][:, 1])
    assert gap[1.0] > gap[0.0] + 1


def test_valid_and_test_rows_change_nothing(make_world: MakeWorld, tmp_path: Path) -> None:
    files = [
        train_tokenizer(
            SMALL, *with_cf(make_world(f"w{s}", held_out_seed=s), 8), tmp_path / f"t{s}"
        ).files
        for s in (1, 2)
    ]
    assert files[0] == files[1]


def test_user_errors(make_world: MakeWorld, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer.cf: the embeddings have no item modality"):
        train_tokenizer(SMALL, *make_world(), tmp_path / "t")
    with pytest.raises(ValueError, match="at least 2 codewords for each of the 10 groups"):
        LetterConfig(level_sizes=(16,))
    with pytest.raises(ValueError, match="beta must be 0 with codebook_update 'ema'"):
        LetterConfig(codebook_update="ema")
