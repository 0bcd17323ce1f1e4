"""The injection and the views' loss against loops over their formulas, and the whole method."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.tokenizer.modalities import with_modalities
from torch import nn

from dasrec.core import Corpus, Embeddings
from dasrec.tokenizer import AssignConfig, assign, load_tokenizer, train_tokenizer
from dasrec.tokenizer.fusion import Injection, multi_view
from dasrec.tokenizer.methods.q_bert4rec import QBert4Rec, QBert4RecConfig
from dasrec.tokenizer.objective import Step
from dasrec.tokenizer.train import build_objective

MakeWorld = Callable[..., tuple[Corpus, Embeddings]]
Vector = npt.NDArray[np.float64]

SMALL = QBert4RecConfig(
    modalities=("text", "image", "clicks"), level_sizes=(8, 4), code_dim=6, hidden=(16,),
    fused_dim=8, epochs=20, continuous_epochs=5, batch_size=20, learning_rate=0.01,
)  # fmt: skip


def run(network: nn.Module, x: Vector) -> Vector:
    """An MLP by hand."""
    assert isinstance(network, nn.Sequential)
    for layer in network:
        if isinstance(layer, nn.Linear):
            x = layer.weight.detach().numpy() @ x + layer.bias.detach().numpy()
        else:
            x = np.maximum(x, 0)
    return x


@pytest.mark.parametrize("widths", [(4, 3), (4, 3, 2)])
def test_the_injection_is_its_formula(widths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    injection = Injection(widths, 5, layers=2).double()
    for parameter in injection.parameters():
        nn.init.normal_(parameter)  # biases too
    x = torch.randn(6, sum(widths), dtype=torch.float64)
    tokens, fused = injection(x)
    for n in range(6):
        blocks = np.split(x[n].numpy(), np.cumsum(widths)[:-1])
        t = [run(project, block) for project, block in zip(injection.project, blocks, strict=True)]
        np.testing.assert_allclose(tokens[n].detach(), t)
        h = run(injection.query, blocks[0])
        for inject, gate in zip(injection.inject, injection.gate, strict=True):
            weight = [math.exp(h @ t_m / math.sqrt(5)) for t_m in t]
            context = sum(w * t_m for w, t_m in zip(weight, t, strict=True)) / sum(weight)
            update = run(inject, np.concatenate([h, context]))
            g = 1 / (1 + math.exp(-run(gate, h + update).item()))
            h = h + g * update
        np.testing.assert_allclose(fused[n].detach(), h)


def test_the_views_loss_is_the_loop_over_the_items_that_have_the_modality() -> None:
    torch.manual_seed(0)
    tokens, fused = torch.randn(5, 2, 3), torch.randn(5, 3)
    present = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 0], [1, 1]]).bool()

    def nce(anchors: torch.Tensor, others: torch.Tensor) -> float:
        cosine = [
            [float(torch.nn.functional.cosine_similarity(a, b, dim=0)) for b in others]
            for a in anchors
        ]
        return -sum(
            math.log(math.exp(row[n] / 0.2) / sum(math.exp(s / 0.2) for s in row))
            for n, row in enumerate(cosine)
        ) / len(cosine)

    having = [0, 2, 4]
    expected = [
        nce(tokens[:, 0], fused), nce(fused, tokens[:, 0]),
        nce(tokens[having, 1], fused[having]), nce(fused[having], tokens[having, 1]),
    ]  # fmt: skip
    found = multi_view(tokens, fused, present, 1 / 0.2)
    assert found.item() == pytest.approx(sum(expected) / 4, rel=1e-5)
    assert multi_view(tokens, fused, torch.zeros(5, 2).bool(), 5.0).item() == 0


def test_the_loss_has_its_terms_and_weights(make_world: MakeWorld) -> None:
    objective = build_objective(SMALL, *with_modalities(make_world(), image=7, clicks=5))
    assert isinstance(objective, QBert4Rec)
    objective.data.items_IX[:4, -5:] = 0  # items that nobody clicked
    item_B = torch.arange(12)
    losses = objective.losses((item_B,), Step("main", 0.5, True))
    side, x = objective.sides.items, objective.data.items_IX[item_B]
    blocks = [torch.nn.functional.normalize(b) / math.sqrt(3) for b in x.split([12, 7, 5], 1)]
    encoded = side.quantize(x)
    decoded = side.decoder(encoded.z_ND)
    error = sum(
        (block - part).square().sum(1).mean()
        for block, part in zip(blocks, decoded.split([12, 7, 5], 1), strict=True)
    )
    torch.testing.assert_close(losses.pop("item/recon"), error)
    tokens, fused = side.encoder.injection(torch.cat(blocks, 1))
    torch.testing.assert_close(side.encoder.encoder(fused), encoded.h_ND)
    present = torch.ones(12, 3).bool()
    present[:4, 2] = False
    expected = 0.1 * multi_view(tokens, fused, present, 10.0)
    torch.testing.assert_close(losses.pop("align/views"), expected)
    assert set(losses) == {"item/codebook", "item/commitment"}
    objective.config = SMALL.model_copy(update={"contrast": 0.0})
    assert "align/views" not in objective.losses((item_B,), Step("main", 0.5, True))


def test_it_trains_and_gives_out_reproducible_sids(make_world: MakeWorld, tmp_path: Path) -> None:
    corpus, embeddings = with_modalities(make_world(), image=7, clicks=5)
    embeddings.more["clicks"][:5] = 0
    world = corpus, embeddings
    one = train_tokenizer(SMALL, *world, tmp_path / "one")
    two = train_tokenizer(SMALL, *world, tmp_path / "two")
    assert one.fingerprint == two.fingerprint
    sids = assign(AssignConfig(collisions="share"), tmp_path / "one", *world, tmp_path / "s")
    config, sides = load_tokenizer(tmp_path / "one")
    assert config == SMALL
    z = sides.items.quantizer.decode(torch.from_numpy(sids.items.codes.astype(np.int64)))
    np.testing.assert_allclose(z, sids.items.vectors, atol=1e-5)
    log = [json.loads(line) for line in (tmp_path / "one/metrics.jsonl").read_text().splitlines()]
    assert log[-1]["item/recon"] < log[0]["item/recon"]
    assert log[-1]["align/views"] < log[0]["align/views"]


def test_one_modality_is_refused(make_world: MakeWorld, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"modalities": ("text",)})
    with pytest.raises(ValueError, match="'q_bert4rec' needs at least two item modalities"):
        train_tokenizer(config, *make_world(), tmp_path / "t")
    assert not list(tmp_path.glob("*t"))
