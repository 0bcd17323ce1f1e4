"""PLUM's losses against loops over its formulas, and the whole method on the small world."""

import itertools
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
from dasrec.tokenizer.methods.plum import (
    Plum,
    PlumBatch,
    PlumConfig,
    draw_partners,
    pairs_nce,
    plum_sides,
)
from dasrec.tokenizer.modal import ModalDecoders, ModalEncoders
from dasrec.tokenizer.objective import Sizes, Step
from dasrec.tokenizer.pairs import PairSampler
from dasrec.tokenizer.quantizer import ResidualQuantizer
from dasrec.tokenizer.train import build_objective

MakeWorld = Callable[..., tuple[Corpus, Embeddings]]

SMALL = PlumConfig(
    modalities=("text", "image"), level_sizes=(8, 4), code_dim=6, hidden=(16,), epochs=12,
    continuous_epochs=4, batch_size=16,
)  # fmt: skip


def test_the_contrastive_loss_is_the_loop_over_its_formula() -> None:
    torch.manual_seed(0)
    p = torch.randn(8, 5)
    item = torch.tensor([0, 1, 2, 3, 1, 4, 1, 5])  # pairs 0-1, 1-4, 2-1, 3-5
    total = 0.0
    for i in range(8):
        j_positive = (i + 4) % 8
        terms = []
        for j in range(8):
            score = float(torch.nn.functional.cosine_similarity(p[i], p[j], dim=0)) / 0.1
            same = item[j] == item[i] or item[j] == item[j_positive]
            if j == j_positive or not same:
                terms.append(math.exp(score))
            if j == j_positive:
                own = math.exp(score)
        total -= math.log(own / sum(terms))
    assert pairs_nce(p, item, 0.1).item() == pytest.approx(total / 8, rel=1e-5)
    assert pairs_nce(p[:0], item[:0], 0.1).item() == 0


def test_partners_are_items_of_one_user_within_the_window(make_world: MakeWorld) -> None:
    corpus, _ = make_world()
    starts, values = corpus.train_sequences.starts, corpus.train_sequences.values
    near = {
        (int(values[a + m]), int(values[a + n]))
        for a, b in itertools.pairwise(starts)
        for m in range(b - a)
        for n in range(max(0, m - 2), min(b - a, m + 3))
        if values[a + m] != values[a + n]
    }
    sampler = PairSampler(corpus, window=2, damping=0.0)
    found = set()
    for seed in range(60):
        partner = draw_partners(sampler, corpus.num_items, np.random.default_rng(seed))
        assert {i for i in range(corpus.num_items) if partner[i] < 0}.isdisjoint(
            {i for i, _ in near}
        )
        found |= {(i, int(j)) for i, j in enumerate(partner) if j >= 0}
    assert found <= near
    assert len(found) > 0.8 * len(near)  # all clicks of an item have their turn


def test_every_step_has_each_item_once_with_its_partner_and_a_mask(make_world: MakeWorld) -> None:
    objective = build_objective(SMALL, *with_modalities(make_world(), image=7))
    assert isinstance(objective, Plum)
    batches = list(objective.batches("main", np.random.default_rng(0)))
    seen = []
    for batch in batches:
        pairs = batch.num_pairs
        partners = batch.item_B[pairs : 2 * pairs]
        assert (batch.item_B[:pairs] != partners).all()
        seen += [*batch.item_B[:pairs].tolist(), *batch.item_B[2 * pairs :].tolist()]
    assert sorted(seen) == list(range(40))
    kept = torch.cat([batch.keep_B for batch in batches])  # type: ignore[misc]
    assert set(kept.tolist()) == {1, 2}


def test_a_masked_row_is_decoded_from_its_first_codewords(make_world: MakeWorld) -> None:
    objective = build_objective(SMALL, *with_modalities(make_world(), image=7))
    assert isinstance(objective, Plum)
    side, item_B = objective.sides.items, torch.arange(10)
    keep_B = torch.tensor([1, 2] * 5)
    x = objective.data.items_IX[item_B]
    encoded = side.quantize(x)
    first, second = (book[encoded.codes_NL[:, n]] for n, book in enumerate(side.codebooks))
    z = first + second * (keep_B == 2)[:, None]
    text, image = (
        torch.nn.functional.normalize(block) / math.sqrt(2) for block in torch.split(x, [12, 7], 1)
    )
    to_text, to_image = side.decoder.parts
    error = (text - to_text(z)).square().sum(1) + (image - to_image(z)).square().sum(1)
    losses = objective.losses(PlumBatch(item_B, keep_B, 5), Step("main", 0.5, True))
    assert losses["item/recon"].item() == pytest.approx(error.mean().item(), rel=1e-5)
    assert objective.head is not None
    nce = pairs_nce(objective.head(z), item_B, 0.1)
    assert losses["align/cooccur_item"].item() == pytest.approx(nce.item(), rel=1e-4)


def test_modalities_meet_only_in_the_projection() -> None:
    torch.manual_seed(0)
    encoders, decoders = ModalEncoders((3, 2), (4,), 5), ModalDecoders((3, 2), (4,), 5)
    x = torch.randn(6, 5)
    left, right = encoders.parts[0](x[:, :3]), encoders.parts[1](x[:, 3:])
    linear = encoders.project[0]
    assert isinstance(linear, torch.nn.Linear)
    expected = torch.cat([left, right], 1).clamp_min(0) @ linear.weight.T + linear.bias
    torch.testing.assert_close(encoders(x), expected)
    z = torch.randn(6, 5)
    torch.testing.assert_close(decoders(z)[:, 3:], decoders.parts[1](z))
    shallow = ModalEncoders((3, 2), (), 5)  # its projection sees the input, negative values too
    torch.testing.assert_close(shallow(x), shallow.project(x))


def test_codebooks_shrink_as_published() -> None:
    config = PlumConfig()
    sides = plum_sides(config, Sizes({"text": 4}, 3))
    assert isinstance(sides.items.quantizer, ResidualQuantizer)
    assert [len(book) for book in sides.items.codebooks] == [1024, 512, 256, 128]


def test_it_trains_and_gives_out_reproducible_sids(make_world: MakeWorld, tmp_path: Path) -> None:
    world = with_modalities(make_world(), image=7)
    one = train_tokenizer(SMALL, *world, tmp_path / "one")
    two = train_tokenizer(SMALL, *world, tmp_path / "two")
    assert one.fingerprint == two.fingerprint
    sids = assign(AssignConfig(collisions="share"), tmp_path / "one", *world, tmp_path / "s")
    config, sides = load_tokenizer(tmp_path / "one")
    assert config == SMALL
    z = sides.items.quantizer.decode(torch.from_numpy(sids.items.codes.astype(np.int64)))
    np.testing.assert_allclose(z, sids.items.vectors, atol=1e-5)
    log = [json.loads(line) for line in (tmp_path / "one/metrics.jsonl").read_text().splitlines()]
    terms = {"item/recon", "item/codebook", "item/commitment", "align/cooccur_item"}
    assert log[-1]["total"] == pytest.approx(sum(log[-1][name] for name in terms), rel=1e-4)
    assert log[-1]["align/cooccur_item"] < log[0]["align/cooccur_item"]


def test_it_learns_from_training_clicks_alone(make_world: MakeWorld, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"modalities": None})  # one modality
    one, two = (
        train_tokenizer(config, *make_world(f"w{seed}", held_out_seed=seed), tmp_path / f"t{seed}")
        for seed in (1, 2)
    )
    assert one.inputs != two.inputs
    assert one.files == two.files


def test_without_its_options_it_is_an_rq_vae(make_world: MakeWorld) -> None:
    config = SMALL.model_copy(update={"masking": False, "cooccur": 0.0})
    objective = build_objective(config, *with_modalities(make_world(), image=7))
    assert isinstance(objective, Plum)
    batch = next(objective.batches("main", np.random.default_rng(0)))
    assert batch.keep_B is None
    assert batch.num_pairs == 0
    losses = objective.losses(batch, Step("main", 0.5, True))
    assert set(losses) == {"item/recon", "item/codebook", "item/commitment"}
