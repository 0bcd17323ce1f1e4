"""Two CPU processes against one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.two_processes import in_two_processes
from torch import Tensor, nn

from dasrec.core import Corpus, Embeddings, load_corpus, load_embeddings
from dasrec.core.processes import average, average_gradients, share, weight
from dasrec.tokenizer import DasConfig, IcdmConfig, TigerConfig, train_tokenizer
from dasrec.tokenizer.parallel import gather

MakeWorld = Callable[..., tuple[Corpus, Embeddings]]

SMALL: dict[str, Any] = {
    "level_sizes": (6, 6),
    "code_dim": 8,
    "hidden": (16,),
    "epochs": 3,
    "continuous_epochs": 1,
    "batch_size": 61,
}
CONFIGS: dict[str, DasConfig | TigerConfig] = {
    "das": DasConfig(sinkhorn="last", sinkhorn_epsilon=0.05, entropy=0.1, **SMALL),
    "ema": DasConfig(codebook_update="ema", icdm=IcdmConfig(variant="dice"), **SMALL),
    "align_first": DasConfig(schedule="align_first", first_epochs=1, **SMALL),
    "tiger": TigerConfig(**SMALL | {"batch_size": 13}),
}
ROWS, DECODED = 7, 4


class Toy(nn.Module):
    """Encoder of shares, a loss of all rows, a decoder of shares."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.middle, self.decoder = (nn.Linear(3, 3).double() for _ in range(3))

    def forward(self, x_BX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h_BX = gather(self.encoder(share(x_BX)), len(x_BX))
        joint = self.middle(h_BX @ h_BX.T @ x_BX).square().mean()
        error = self.decoder(share(h_BX[:DECODED])) - share(x_BX[:DECODED])
        return h_BX, joint, error.square().sum() * weight(DECODED)


def plain(toy: Toy, x_BX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`Toy.forward` as one writes it for one process."""
    h_BX = toy.encoder(x_BX)
    joint = toy.middle(h_BX @ h_BX.T @ x_BX).square().mean()
    error = toy.decoder(h_BX[:DECODED]) - x_BX[:DECODED]
    return h_BX, joint, error.square().sum(1).mean()


def toy_rows() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(ROWS, 3)))


def work(rank: int, folder: Path) -> None:
    corpus = load_corpus(folder / "world" / "corpus")
    embeddings = load_embeddings(folder / "world" / "embeddings", corpus)
    for name, config in CONFIGS.items():
        train_tokenizer(config, corpus, embeddings, folder / "two" / name)
    toy = Toy()
    gathered, joint, recon = toy(toy_rows())
    (joint + recon).backward()
    average_gradients(toy)
    gradients = [p.grad for p in toy.parameters()]
    losses = average({"joint": joint.detach(), "recon": recon.detach()})
    torch.save((gathered.detach(), gradients, losses), folder / f"toy{rank}.pt")


@pytest.fixture
def trained(make_world: MakeWorld, tmp_path: Path) -> Path:
    """The world, and what two processes made of it."""
    make_world()
    in_two_processes(work, tmp_path)
    return tmp_path


def test_two_processes_train_what_one_trains(trained: Path) -> None:
    """Rows are shared unevenly, and the last batches are odd."""
    toy = Toy()
    gathered, joint, recon = plain(toy, toy_rows())
    (joint + recon).backward()
    for rank in range(2):
        theirs, gradients, losses = torch.load(trained / f"toy{rank}.pt")
        torch.testing.assert_close(theirs, gathered.detach())
        for parameter, gradient in zip(toy.parameters(), gradients, strict=True):
            torch.testing.assert_close(gradient, parameter.grad)
        assert losses == pytest.approx({"joint": joint.item(), "recon": recon.item()})

    corpus = load_corpus(trained / "world" / "corpus")
    embeddings = load_embeddings(trained / "world" / "embeddings", corpus)
    for name, config in CONFIGS.items():
        one, two = trained / "one" / name, trained / "two" / name
        train_tokenizer(config, corpus, embeddings, one)
        curves = [
            [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
            for path in (one, two)
        ]
        assert len(curves[0]) == len(curves[1]) >= 3
        for ours, theirs in zip(*curves, strict=True):
            assert theirs == pytest.approx(ours, rel=1e-4, abs=1e-5), name
        weights = [load_file(path / "model.safetensors") for path in (one, two)]
        torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-4)
    # One artifact each, and nothing beside them.
    assert sorted(p.name for p in (trained / "two").iterdir()) == sorted(CONFIGS)
