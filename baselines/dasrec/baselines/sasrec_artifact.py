"""The "sasrec_model" artifact: config and weights of a SASRec, and scores from it.

Shape letters: B queries, T places, D hidden size, I items.
"""

import json
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor

from dasrec.baselines.sasrec import Sasrec
from dasrec.baselines.sequences import Windows, pad
from dasrec.core import Corpus, Manifest, StageConfig, build_config, load_manifest
from dasrec.core.corpus import Int64s

SCORE_BATCH = 256
"""Queries encoded at a time; never changes a result."""


class SasrecConfig(StageConfig):
    """Model and training; the defaults were chosen on validation."""

    hidden: int = Field(64, ge=1)
    """Size of the item embeddings and of every layer."""

    num_layers: int = Field(1, ge=1)
    """Transformer blocks."""

    num_heads: int = Field(1, ge=1)
    """Attention heads; must divide `hidden`."""

    max_length: int = Field(50, ge=1)
    """Latest events that the model reads."""

    dropout: float = Field(0.2, ge=0, lt=1)
    """On the embeddings and on every residual branch."""

    num_negatives: int | None = Field(None, ge=1)
    """Items drawn per batch for the softmax; None = the whole catalogue (up to some 10^5 items)."""

    learning_rate: float = Field(3e-3, gt=0)
    """Adam's step size at the start; it falls evenly to 0 at the last of `epochs`."""

    batch_size: int = Field(256, ge=1)
    """Sequences per step."""

    epochs: int = Field(20, ge=1)
    """Epochs at most."""

    patience: int = Field(5, ge=0)
    """Stop after this many epochs without a better validation NDCG@10."""

    valid_queries: int = Field(10_000, ge=1)
    """Validation queries, drawn at random, that early stopping looks at."""

    @model_validator(mode="after")
    def _heads_divide_hidden(self) -> "SasrecConfig":
        if self.hidden % self.num_heads:
            raise ValueError(f"hidden {self.hidden} is not a multiple of {self.num_heads} heads")
        return self


def new_model(config: SasrecConfig, num_items: int, repeat_bias: float = 0.0) -> Sasrec:
    """A fresh model with the sizes of `config`."""
    return Sasrec(
        num_items=num_items,
        hidden=config.hidden,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        max_length=config.max_length,
        dropout=config.dropout,
        repeat_bias=repeat_bias,
    )


def default_device() -> torch.device:
    """The accelerator if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def save_sasrec_payload(path: Path, config: SasrecConfig, model: Sasrec) -> None:
    """Write the payload of a "sasrec_model" artifact."""
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    save_file(weights, path / "model.safetensors")
    (path / "config.json").write_text(
        json.dumps({"sasrec": config.as_json(), "num_items": model.num_items}, indent=2) + "\n"
    )


def load_sasrec(path: str | Path, corpus: Corpus) -> tuple[Sasrec, Manifest]:
    """Open a "sasrec_model" artifact that was trained on `corpus`, in eval mode.

    Raises:
        FileNotFoundError: there is no artifact at `path`.
        ValueError: another kind of artifact, or one of another corpus.
    """
    path = Path(path)
    manifest = load_manifest(path, "sasrec_model", {"corpus": corpus.manifest})
    stored = json.loads((path / "config.json").read_text())
    config = build_config(SasrecConfig, stored["sasrec"], f"{path}/config.json")
    model = new_model(config, corpus.num_items)
    model.load_state_dict(load_file(path / "model.safetensors"))
    return model.to(default_device()).eval(), manifest


def score_queries(model: Sasrec, corpus: Corpus, queries: Int64s) -> Tensor:
    """(B, I) scores of the catalogue given each query's latest events, `SCORE_BATCH` at a time."""
    histories = corpus.histories(queries, model.max_length)
    windows = Windows(histories.values, histories.starts[:-1], np.diff(histories.starts))
    device = model.items.weight.device
    scores_BI = torch.empty(len(queries), model.num_items, device=device)
    order = np.argsort(windows.length, kind="stable")  # like lengths together: little padding
    for start in range(0, len(queries), SCORE_BATCH):
        chosen = order[start : start + SCORE_BATCH]
        items_BT = pad(windows, chosen, model.num_items).to(device)
        row_B = torch.arange(len(chosen), device=device)
        last_B = torch.from_numpy(windows.length[chosen] - 1).to(device)
        states_BD = model(items_BT)[row_B, last_B]
        seen_BT = torch.where(items_BT < model.num_items, items_BT, items_BT[:, :1])
        scores_BI[torch.from_numpy(chosen).to(device)] = model.score(states_BD, seen_BT)
    return scores_BI
