from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from dasrec.core import Corpus, Embeddings
from dasrec.tokenizer import AssignConfig, assign, load_tokenizer, train_tokenizer
from dasrec.tokenizer.additive import Additive, Floats, fit_levels
from dasrec.tokenizer.balanced_kmeans import balanced_centroids
from dasrec.tokenizer.fsq import Fsq
from dasrec.tokenizer.kmeans import kmeans
from dasrec.tokenizer.methods.res_kmeans import ResKmeansConfig

MakeWorld = Callable[..., tuple[Corpus, Embeddings]]
World = tuple[Corpus, Embeddings]

SMALL = ResKmeansConfig(level_sizes=(4, 8), fsq_levels=(4, 2), batch_size=64)


def vectors(rows: int, width: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32))


def test_levels_are_those_of_a_plain_loop() -> None:
    """sklearn's Lloyd, started at the codewords, finds nothing left to move at any level."""
    x = vectors(300, 5)
    side = Additive((6, 4), (5,))
    left = fit_levels(side, x, [lambda x, k, s: kmeans(x, k, s, 100)] * 2, seed=3)
    encoded = side.quantize(x)
    residual = (x / x.norm(dim=1, keepdim=True)).numpy()
    for level, words in enumerate(side.codebooks):
        oracle = KMeans(len(words), init=words.numpy(), n_init=1).fit(residual)
        np.testing.assert_allclose(oracle.cluster_centers_, words.numpy(), atol=1e-5)
        np.testing.assert_array_equal(encoded.codes_NL[:, level].numpy(), oracle.labels_)
        if level == 1:
            np.testing.assert_allclose(encoded.residual_ND.numpy(), residual, atol=1e-6)
        residual = residual - oracle.cluster_centers_[oracle.labels_]
    np.testing.assert_allclose(left.numpy(), residual, atol=1e-5)
    np.testing.assert_allclose((encoded.h_ND - encoded.z_ND).numpy(), residual, atol=1e-5)
    expected = np.square(residual).sum(1).mean()
    assert side.reconstruction_error(x, encoded.z_ND) == pytest.approx(expected, rel=1e-4)


def test_balanced_level_is_more_even() -> None:
    """A dense crowd and wide strays: capacity cuts the crowd up, also by nearest codeword."""
    rng = np.random.default_rng(0)
    x = np.concatenate([0.05 * rng.normal(size=(400, 2)), rng.normal(size=(100, 2))])
    x = x.astype(np.float32)

    def largest(words: Floats) -> int:
        distance = np.square(x[:, None] - words).sum(2)
        return int(np.bincount(distance.argmin(1)).max())

    assert largest(balanced_centroids(x, 10, 0)) < 0.5 * largest(kmeans(x, 10, 0))


def test_grid_codes_by_hand() -> None:
    """Axes of variance 4 and 1: coordinates divided by 2 and 1, through sigmoid, rounded."""
    fsq = Fsq((3, 2), 3)
    r = torch.tensor([[4.0, 0, 0], [-4, 0, 0], [0, 2, 0], [0, -2, 0]]) / np.sqrt(2)
    r = torch.cat([r, r]) + torch.tensor([1.0, 1, 1])
    words = fsq.fit(r)
    # standard deviation 2 along x and 1 along y: coordinates +-sqrt 2, sigmoid .804 or .196
    # x: round(2 * .804) = 2, round(2 * .196) = 0, round(2 * .5) = 1
    # y: round(.804) = 1, round(.196) = 0, round(.5) = 0
    assert fsq.codes(r).tolist() == [2 + 0, 0 + 0, 1 + 3, 1 + 0] * 2
    root = np.sqrt(2)
    x, y = [-2 * root, 0, 2 * root], [(0 + 0 - root) / 3, root]
    expected = [[1 + x[k % 3], 1 + y[k // 3], 1] for k in range(6)]
    np.testing.assert_allclose(words.numpy(), expected, atol=1e-5)


def test_grid_value_without_residuals_stands_for_the_middle_of_its_interval() -> None:
    fsq = Fsq((9,), 1)
    words = fsq.fit(torch.tensor([[-1.0], [1.0]]))  # sigmoid(+-1) * 8 rounds to 2 and 6
    np.testing.assert_allclose(words[[2, 6], 0], [-1, 1], atol=1e-6)
    np.testing.assert_allclose(words[4, 0], 0, atol=1e-6)
    edge = 0.25 / 8  # the middle of [0, 0.5 / 8]
    np.testing.assert_allclose(words[0, 0], np.log(edge / (1 - edge)), rtol=1e-5)
    assert (words.diff(dim=0) > 0).all()


def test_every_grid_code_means_its_own_codeword() -> None:
    fsq = Fsq((4, 3, 2), 6)
    words = fsq.fit(vectors(500, 6))
    assert words.shape == (24, 6)
    assert fsq.codes(words).tolist() == list(range(24))


@pytest.mark.parametrize("last", ["kmeans", "balanced", "fsq"])
@pytest.mark.parametrize("align_epochs", [0, 2])
def test_trains_assigns_and_loads(
    make_world: MakeWorld, tmp_path: Path, last: str, align_epochs: int
) -> None:
    world = make_world()
    config = SMALL.model_copy(update={"last": last, "align_epochs": align_epochs})
    one = train_tokenizer(config, *world, tmp_path / "t")
    two = train_tokenizer(config, *world, tmp_path / "again")
    assert one.fingerprint == two.fingerprint
    assert one.metrics["item/usage_0"] == 1
    sids = assign(AssignConfig(), tmp_path / "t", *world, tmp_path / "s")
    stored, sides = load_tokenizer(tmp_path / "t")
    assert stored == config
    x = torch.from_numpy(np.array(world[1].items))
    encoded = sides.items.quantize(x)
    np.testing.assert_array_equal(encoded.codes_NL.numpy(), sids.items.codes[:, :2])
    books = sids.items.codebooks
    z = books[0][sids.items.codes[:, 0]] + books[1][sids.items.codes[:, 1]]
    np.testing.assert_allclose(z, sids.items.vectors, atol=1e-6)
    assert z.shape[1] == (128 if align_epochs else 12)
    assert sides.items.reconstruction_error(x, encoded.z_ND) < 0.5


@pytest.mark.parametrize("align_epochs", [0, 1])
def test_valid_and_test_rows_change_nothing(
    make_world: MakeWorld, tmp_path: Path, align_epochs: int
) -> None:
    config = SMALL.model_copy(update={"align_epochs": align_epochs})
    files = [
        train_tokenizer(config, *make_world(f"w{s}", held_out_seed=s), tmp_path / f"t{s}").files
        for s in (1, 2)
    ]
    assert files[0] == files[1]


def test_user_errors(make_world: MakeWorld, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"product must be the last of level_sizes \(8\), got 16"):
        ResKmeansConfig(level_sizes=(4, 8), last="fsq", fsq_levels=(4, 4))
    with pytest.raises(ValueError, match="values of at least 2"):
        ResKmeansConfig(level_sizes=(4, 4), last="fsq", fsq_levels=(4, 1))
    with pytest.raises(ValueError, match="cannot have more codewords than there are items"):
        train_tokenizer(ResKmeansConfig(), *make_world("a"), tmp_path / "t")
    wide = ResKmeansConfig(level_sizes=(4, 8192), last="fsq", fsq_levels=(2,) * 13)
    with pytest.raises(ValueError, match=r"as many as the content has dimensions \(12\), got 13"):
        train_tokenizer(wide, *make_world("b"), tmp_path / "t")
