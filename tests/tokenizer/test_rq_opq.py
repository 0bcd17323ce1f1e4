from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch

from dasrec.core import Corpus, Embeddings
from dasrec.tokenizer import AssignConfig, assign, load_tokenizer, train_tokenizer
from dasrec.tokenizer.additive import Additive, Floats
from dasrec.tokenizer.methods.rq_opq import RqOpqConfig
from dasrec.tokenizer.opq import opq_codewords

MakeWorld = Callable[..., tuple[Corpus, Embeddings]]

SMALL = RqOpqConfig(rq_sizes=(8, 4), opq_codes=2, opq_bits=3)


def residuals(rows: int, width: int) -> Floats:
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(rows, width)) @ rng.normal(size=(width, width))
    return mixed.astype(np.float32)


@pytest.mark.parametrize(("width", "parts"), [(12, 2), (12, 3), (13, 2), (8, 1)])
def test_nearest_codewords_are_the_codes_of_the_product_quantizer(width: int, parts: int) -> None:
    """faiss' own OPQ + PQ, trained on the same rows, gives the same codes and reconstruction."""
    r = residuals(600, width)
    words = opq_codewords(r, parts, bits=4, seed=7)
    turned = width // parts * parts
    rotation = faiss.OPQMatrix(width, parts, turned)
    rotation.pq = draft = faiss.ProductQuantizer(turned, parts, 4)
    draft.cp.seed, draft.cp.min_points_per_centroid = 7, 1
    rotation.train(r)
    quantizer: Any = faiss.ProductQuantizer(turned, parts, 4)
    quantizer.cp.seed, quantizer.cp.min_points_per_centroid = 7, 1
    quantizer.train(rotation.apply(r))
    packed = quantizer.compute_codes(rotation.apply(r))
    expected = faiss.unpack_bitstrings(packed, parts, 4)
    decoded = rotation.reverse_transform(quantizer.decode(packed))

    side = Additive((16,) * parts, (width,))
    for own, found in zip(side.words, words, strict=True):
        own.copy_(torch.from_numpy(found))
    codes = side.codes(torch.empty(0), torch.from_numpy(r))
    np.testing.assert_array_equal(codes.numpy(), expected)
    z = side.stand_for(codes, torch.from_numpy(r)).z_ND
    np.testing.assert_allclose(z.numpy(), decoded, atol=1e-4)


def test_parts_are_orthogonal() -> None:
    one, two = opq_codewords(residuals(300, 10), 2, bits=3, seed=0)
    np.testing.assert_allclose(one @ two.T, 0, atol=1e-3)
    assert np.abs(one @ one.T).max() > 1


def test_rotation_pays() -> None:
    """Correlated dimensions: OPQ loses less than the product quantizer as it stands."""
    r = residuals(600, 12)
    words = opq_codewords(r, 2, bits=4, seed=0)
    left = r
    for book in words:
        left = left - book[np.square(left[:, None] - book).sum(2).argmin(1)]
    plain: Any = faiss.ProductQuantizer(12, 2, 4)
    plain.train(r)
    rest = r - plain.decode(plain.compute_codes(r))
    assert np.square(left).sum() < np.square(rest).sum()


def test_trains_assigns_and_loads(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world()
    one = train_tokenizer(SMALL, *world, tmp_path / "t")
    two = train_tokenizer(SMALL, *world, tmp_path / "again")
    assert one.fingerprint == two.fingerprint
    sids = assign(AssignConfig(collisions="share"), tmp_path / "t", *world, tmp_path / "s")
    assert sids.items.level_sizes == (8, 4, 8, 8) == SMALL.level_sizes
    config, sides = load_tokenizer(tmp_path / "t")
    assert config == SMALL
    encoded = sides.items.quantize(torch.from_numpy(np.array(world[1].items)))
    np.testing.assert_array_equal(encoded.codes_NL.numpy(), sids.items.codes)
    unit = encoded.h_ND
    np.testing.assert_allclose(unit.norm(dim=1), 1, atol=1e-5)
    kept = [(unit - z).square().sum().item() for z in (torch.zeros(()), encoded.z_ND)]
    assert kept[1] < 0.1 * kept[0]


def test_user_errors(make_world: MakeWorld, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"as many as the content has dimensions \(12\), got 13"):
        train_tokenizer(RqOpqConfig(opq_codes=13), *make_world("a"), tmp_path / "t")
    with pytest.raises(ValueError, match="cannot have more codewords than there are items"):
        train_tokenizer(RqOpqConfig(rq_sizes=(8,), opq_bits=6), *make_world("b"), tmp_path / "t")


def test_valid_and_test_rows_change_nothing(make_world: MakeWorld, tmp_path: Path) -> None:
    files = [
        train_tokenizer(SMALL, *make_world(f"w{s}", held_out_seed=s), tmp_path / f"t{s}").files
        for s in (1, 2)
    ]
    assert files[0] == files[1]
