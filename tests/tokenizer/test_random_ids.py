from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from dasrec.core import Corpus, Embeddings
from dasrec.tokenizer import AssignConfig, assign, load_tokenizer, train_tokenizer
from dasrec.tokenizer.methods.random_ids import Hashed, RandomConfig

MakeWorld = Callable[..., tuple[Corpus, Embeddings]]

SMALL = RandomConfig(level_sizes=(8, 5))


def hashed(level_sizes: tuple[int, ...], width: int) -> Hashed:
    side = Hashed(level_sizes, (width,))
    factors = np.random.default_rng(0).integers(0, 2**64, tuple(side.factors_XL.shape), np.uint64)
    side.factors_XL.copy_(torch.from_numpy(factors.view(np.int64)))
    return side


def test_codes_are_the_hash_in_whole_numbers() -> None:
    side = hashed((256, 5), 3)
    x = torch.tensor([[0.25, -1.5, 3e-9], [0.0, 7.0, -2.0]])
    codes = side.codes(x, x)
    factors = [[int(v) % 2**64 for v in row] for row in side.factors_XL]
    for row in range(2):
        words = [int(np.float32(v).view(np.uint32)) for v in x[row].tolist()]
        for level, size in enumerate((256, 5)):
            total = factors[0][level]
            for word, factor in zip(words, factors[1:], strict=True):
                total += word * factor[level]
            assert codes[row, level].item() == (total % 2**64 // 2**32) * size // 2**32


def test_codes_and_pairs_of_codes_are_uniform() -> None:
    """Chi-squared at the 0.1 % level, over rows that differ in few bits."""
    x = torch.arange(20_000, dtype=torch.float32)[:, None].repeat(1, 4)
    codes = hashed((10, 7), 4).codes(x, x)
    for cells, size in ((codes[:, 0], 10), (codes[:, 1], 7), (codes[:, 0] * 7 + codes[:, 1], 70)):
        count = torch.bincount(cells, minlength=size).double()
        expected = len(x) / size
        statistic = ((count - expected).square() / expected).sum().item()
        assert statistic < chi2.ppf(0.999, size - 1)


def test_a_code_depends_on_the_row_alone() -> None:
    side = hashed((64, 64), 6)
    x = torch.randn(30, 6)
    x[7] = x[3]
    codes = side.codes(x, x)
    assert torch.equal(codes[7], codes[3])
    assert torch.equal(side.codes(x[10:], x[10:]), codes[10:])
    zeros = torch.tensor([[0.0] * 6, [-0.0] * 6])
    assert len(side.codes(zeros, zeros).unique(dim=0)) == 1


def test_trains_assigns_and_loads(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world()
    one = train_tokenizer(SMALL, *world, tmp_path / "t")
    two = train_tokenizer(SMALL, *world, tmp_path / "again")
    other = train_tokenizer(SMALL, *world, tmp_path / "other", seed=1)
    assert one.fingerprint == two.fingerprint
    assert one.files["model.safetensors"] != other.files["model.safetensors"]
    sids = assign(AssignConfig(), tmp_path / "t", *world, tmp_path / "s")
    config, sides = load_tokenizer(tmp_path / "t")
    assert config == SMALL
    encoded = sides.items.quantize(torch.from_numpy(np.array(world[1].items)))
    np.testing.assert_array_equal(encoded.codes_NL.numpy(), sids.items.codes[:, :2])
    books, codes = sids.items.codebooks, sids.items.codes
    z = books[0][codes[:, 0]] + books[1][codes[:, 1]]
    np.testing.assert_allclose(z, sids.items.vectors, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_codes_tell_nothing_about_content(make_world: MakeWorld, tmp_path: Path, seed: int) -> None:
    """Items of one cluster do not share first codes more often than others do (by chance 1/8)."""
    world = make_world()
    train_tokenizer(SMALL, *world, tmp_path / "t", seed=seed)
    _, sides = load_tokenizer(tmp_path / "t")
    first = sides.items.quantize(torch.from_numpy(np.array(world[1].items))).codes_NL[:, 0]
    cluster = torch.arange(len(first)) % 4
    same = (first[:, None] == first) & ~torch.eye(len(first), dtype=torch.bool)
    assert same[cluster[:, None] == cluster].float().mean() < 0.3


def test_valid_and_test_rows_change_nothing(make_world: MakeWorld, tmp_path: Path) -> None:
    files = [
        train_tokenizer(SMALL, *make_world(f"w{s}", held_out_seed=s), tmp_path / f"t{s}").files
        for s in (1, 2)
    ]
    assert files[0] == files[1]
