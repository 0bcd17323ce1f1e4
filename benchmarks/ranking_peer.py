"""DIN and DCNv2 of torch-rechub on the rows of a `CtrWorld`."""

import contextlib
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from benchmarks.ranking_world import CtrWorld

from dasrec.ranking import RankingConfig
from dasrec.ranking.rows import Rows

VERSION = "0.9.0"
FOLDER = Path("runs/ranking_peer")
Floats = npt.NDArray[np.float64]


def install() -> None:
    """Put torch-rechub into a folder of its own; what it needs beside it is installed already."""
    if not FOLDER.exists():
        package = f"torch-rechub=={VERSION}"
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(FOLDER)]
        subprocess.run([*command, package], check=True)
    sys.path.append(str(FOLDER))


class Peer:
    """A model of the library with its trainer."""

    def __init__(self, world: CtrWorld, config: RankingConfig) -> None:
        """Make the model that has our fields, widths and layers."""
        from torch_rechub.trainers import CTRTrainer

        self.world, self.config = world, config
        self.model = _model(world, config)
        self.trainer = CTRTrainer(
            self.model,
            torch.optim.Adam,
            {"lr": config.learning_rate, "weight_decay": 0.0},
            device="cpu",
        )

    def columns(self, rows: Rows) -> dict[str, npt.NDArray[np.int64]]:
        """The library's input: histories padded to the longest allowed."""
        corpus, length = self.world.corpus, self.config.features.max_history
        position = rows.history_end[:, None] + np.arange(-length, 0)
        real = position >= corpus.user_start[rows.user_idx][:, None]
        history = np.where(real, corpus.item_idx[np.maximum(position, 0)] + 1, 0)
        found = {"user": rows.user_idx + 1, "item": rows.item_idx + 1, "history": history}
        for side, codes, index in (
            ("user", self.world.users, rows.user_idx),
            ("item", self.world.items, rows.item_idx),
        ):
            found |= {f"{side}{c}": codes[index, c] + 1 for c in range(codes.shape[1])}
        return {name: np.ascontiguousarray(x.astype(np.int64)) for name, x in found.items()}

    def loader(self, rows: Rows, *, shuffle: bool) -> Any:
        """The library's loader."""
        from torch.utils.data import DataLoader
        from torch_rechub.utils.data import TorchDataset

        dataset = TorchDataset(self.columns(rows), rows.label)
        return DataLoader(dataset, self.config.batch_size, shuffle=shuffle)

    def steps(self, batches: Any) -> Iterator[int]:
        """Training steps without end, those of `CTRTrainer.train_one_epoch`; rows of each."""
        trainer = self.trainer
        while True:
            for x, y in batches:
                self.model.train()
                loss = trainer.criterion(self.model(x), y.float())
                loss = loss + trainer.reg_loss_fn(self.model)
                self.model.zero_grad()
                loss.backward()
                trainer.optimizer.step()
                loss.item()
                yield len(y)

    def ready(self, rows: Rows) -> list[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        """Batches made beforehand, to measure the model without the loader."""
        x = {name: torch.from_numpy(column) for name, column in self.columns(rows).items()}
        label = torch.from_numpy(rows.label)
        parts = torch.split(torch.randperm(len(label)), self.config.batch_size)
        return [({name: c[part] for name, c in x.items()}, label[part]) for part in parts]

    def predict(self, batches: Any) -> list[float]:
        """The library's scores, its progress bar unseen."""
        with contextlib.redirect_stderr(io.StringIO()):
            scores: list[float] = self.trainer.predict(self.model, batches)
        return scores


def _model(world: CtrWorld, config: RankingConfig) -> Any:
    from torch_rechub.basic.features import SequenceFeature, SparseFeature
    from torch_rechub.models.ranking import DIN, DCNv2

    model, dim = config.model, config.model.embedding_dim
    sizes = {"user": world.corpus.num_users}
    for side, codes in (("user", world.users), ("item", world.items)):
        sizes |= {f"{side}{c}": int(codes[:, c].max()) + 1 for c in range(codes.shape[1])}
    fields = [SparseFeature(name, k + 1, dim) for name, k in sizes.items()]
    num_items = world.corpus.num_items + 1
    item = SparseFeature("item", num_items, dim, padding_idx=0)
    pooling = "concat" if model.backbone == "din" else "mean"
    history = SequenceFeature("history", num_items, dim, pooling, "item", padding_idx=0)
    layers = {"dims": list(model.hidden_dims), "dropout": model.dropout}
    if model.backbone == "din":
        attention = {"dims": [model.attention_dim]}
        return DIN(fields, [history], [item], layers, attention)
    return DCNv2([*fields, item, history], model.cross_layers, layers, use_low_rank_mixture=False)
