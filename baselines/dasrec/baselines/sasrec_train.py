"""Train SASRec on the training sequences, then recommend with it.

Shape letters: Q queries, B queries of a block, T places, P real positions, D hidden size, I items.
"""

import json
import logging
import math
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor

from dasrec.baselines.lists import Floats, recommend_blocks
from dasrec.baselines.sasrec import Sasrec
from dasrec.baselines.sequences import Windows, pad, shuffled_batches, training_windows
from dasrec.baselines.softmax_loss import catalogue_loss, sampled_loss
from dasrec.core import (
    Corpus,
    Manifest,
    StageConfig,
    build_config,
    generator,
    load_manifest,
    recipe_digest,
    seed_everything,
    work_dir,
    write_artifact,
    write_recommendations,
)
from dasrec.core.corpus import Int64s
from dasrec.core.training import fit
from dasrec.eval.ranking_metrics import ndcg_at_k, recall_at_k

log = logging.getLogger(__name__)

SCORE_BATCH = 256


class SasrecConfig(StageConfig):
    """Model and training; the defaults were chosen on validation."""

    hidden: int = Field(128, ge=1)
    """Size of the item embeddings and of every layer."""

    num_layers: int = Field(1, ge=1)
    """Transformer blocks."""

    num_heads: int = Field(1, ge=1)
    """Attention heads; must divide `hidden`."""

    max_length: int = Field(50, ge=1)
    """Latest events that the model reads."""

    dropout: float = Field(0.3, ge=0, lt=1)
    """On the embeddings and on every residual branch."""

    num_negatives: int | None = Field(None, ge=1)
    """Items drawn per batch for the softmax; None = the whole catalogue."""

    learning_rate: float = Field(3e-3, gt=0)
    """Adam's step size."""

    batch_size: int = Field(256, ge=1)
    """Sequences per step."""

    epochs: int = Field(60, ge=1)
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


class SasrecRecommendConfig(StageConfig):
    """Lists of a trained SASRec."""

    width: int = Field(50, ge=1)
    """Items per list."""

    exclude_seen: bool = False
    """Leave out what the user has already had."""


def train_sasrec(
    config: SasrecConfig,
    corpus: Corpus,
    out: str | Path,
    *,
    seed: int = 0,
    replace: bool = False,
) -> Manifest:
    """Train on the training sequences; keep the epoch with the best validation NDCG@10.

    An interrupted run, started again with the same arguments, goes on after its last finished
    epoch and ends with the same weights.

    Args:
        config: model and training.
        corpus: weights see its training events only; validation queries choose the epoch.
        out: directory of the "sasrec_model" artifact.
        seed: of weights, batches, dropout and negatives.
        replace: swap an artifact that is already at `out`.

    Raises:
        FileExistsError: `out` exists and `replace` is false.
        ValueError: nothing to learn from or to validate on.
    """
    out = Path(out)
    if out.exists() and not replace:
        raise FileExistsError(f"{out} exists; choose another --out or pass --replace")
    windows = training_windows(corpus.train_sequences, config.max_length)
    if not len(windows.length) or not len(corpus.queries("valid")):
        raise ValueError(
            f"sasrec: expected users with two training events and validation queries, got "
            f"{len(windows.length)} and {len(corpus.queries('valid'))}; check the split"
        )
    recipe = recipe_digest(
        "sasrec_model", config.as_json(), {"corpus": corpus.manifest.fingerprint}, seed
    )
    work = work_dir(out, recipe)
    began = time.perf_counter()
    seed_everything(seed, "sasrec", "init")
    trainer = _Trainer(config, corpus, windows, seed)
    result = fit(
        trainer.model,
        {"optimizer": trainer.optimizer},
        trainer.run_epoch,
        name="sasrec",
        num_epochs=config.epochs,
        seed=seed,
        work=work,
        validate=trainer.validate,
        primary="ndcg@10",
        patience=config.patience,
    )

    def write_payload(path: Path) -> None:
        weights = {k: v.detach().cpu().contiguous() for k, v in trainer.model.state_dict().items()}
        save_file(weights, path / "model.safetensors")
        (path / "config.json").write_text(
            json.dumps({"sasrec": config.as_json(), "num_items": corpus.num_items}, indent=2) + "\n"
        )

    manifest = write_artifact(
        out,
        "sasrec_model",
        config.as_json(),
        {"corpus": corpus.manifest},
        write_payload,
        seed=seed,
        metrics={
            "best_epoch": result.best_epoch,
            "valid": result.best_metrics,
            "history": result.history,
            "seconds": round(time.perf_counter() - began, 2),
        },
        replace=replace,
    )
    shutil.rmtree(work)
    return manifest


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
    model = _new_model(config, corpus.num_items)
    model.load_state_dict(load_file(path / "model.safetensors"))
    return model.to(_device()).eval(), manifest


def recommend_sasrec(
    config: SasrecRecommendConfig,
    corpus: Corpus,
    model_path: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    replace: bool = False,
) -> Manifest:
    """Rank the whole catalogue with a trained SASRec, for validation and test queries.

    Args:
        config: the lists.
        corpus: what the model was trained on.
        model_path: a "sasrec_model" artifact.
        out: directory of the Recommendations artifact.
        seed: kept in the manifest; nothing here is random.
        replace: swap an artifact that is already at `out`.
    """
    began = time.perf_counter()
    model, manifest = load_sasrec(model_path, corpus)

    def score(queries: Int64s) -> Floats:
        with torch.inference_mode():
            scores: Floats = model.score(query_states(model, corpus, queries)).cpu().numpy()
        return scores

    recommendations = recommend_blocks(corpus, config.width, config.exclude_seen, score)
    return write_recommendations(
        out,
        config.as_json(),
        {"corpus": corpus.manifest, "model": manifest},
        recommendations,
        seed=seed,
        metrics={"seconds": round(time.perf_counter() - began, 2)},
        replace=replace,
    )


def query_states(model: Sasrec, corpus: Corpus, queries: Int64s) -> Tensor:
    """(B, D) state after each query's last event, in batches of like history length."""
    histories = corpus.histories(queries, model.max_length)
    windows = Windows(histories.values, histories.starts[:-1], np.diff(histories.starts))
    device = model.items.weight.device
    states_BD = torch.empty(len(queries), model.items.embedding_dim, device=device)
    order = np.argsort(windows.length, kind="stable")
    for start in range(0, len(queries), SCORE_BATCH):
        chosen = order[start : start + SCORE_BATCH]
        hidden_BTD = model(pad(windows, chosen, model.num_items).to(device))
        last_B = torch.from_numpy(windows.length[chosen] - 1).to(device)
        states_BD[torch.from_numpy(chosen).to(device)] = hidden_BTD[
            torch.arange(len(chosen), device=device), last_B
        ]
    return states_BD


class _Trainer:
    """Model, optimizer and the two steps that `fit` repeats."""

    def __init__(self, config: SasrecConfig, corpus: Corpus, windows: Windows, seed: int) -> None:
        self.config, self.corpus, self.windows, self.seed = config, corpus, windows, seed
        self.device = _device()
        self.model = _new_model(config, corpus.num_items).to(self.device)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), fused=True
        )
        queries = corpus.queries("valid")
        number = min(config.valid_queries, len(queries))
        chosen = generator(seed, "sasrec", "valid").choice(queries, number, replace=False)
        self.queries = np.sort(chosen)

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over all windows; returns the mean loss in nats per target."""
        order = generator(self.seed, "sasrec", "batches", epoch)
        total, num_targets = 0.0, 0
        for chosen in shuffled_batches(self.windows.length, self.config.batch_size, order):
            inputs_BT = pad(self.windows, chosen, self.model.num_items).to(self.device)
            targets_BT = pad(self.windows, chosen, self.model.num_items, shift=1).to(self.device)
            real_BT = inputs_BT < self.model.num_items
            targets_P = targets_BT[real_BT]
            loss = self._loss(self.model(inputs_BT)[real_BT], targets_P)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += loss.item() * len(targets_P)
            num_targets += len(targets_P)
        if not math.isfinite(total):
            raise ValueError(
                f"sasrec: the loss is {total} in epoch {epoch}; lower sasrec.learning_rate "
                f"(now {self.config.learning_rate})"
            )
        return {"loss": total / num_targets}

    def validate(self, epoch: int) -> dict[str, float]:
        """Recall@10 and NDCG@10 of the sampled validation queries over the whole catalogue."""
        ranks = []
        for block in np.split(self.queries, np.arange(1024, len(self.queries), 1024)):
            scores_BI = self.model.score(query_states(self.model, self.corpus, block))
            target_B = torch.from_numpy(self.corpus.item_idx[block].astype(np.int64))
            own_B1 = scores_BI.gather(1, target_B.to(self.device)[:, None])
            ranks.append(1 + (scores_BI > own_B1).sum(1).cpu().numpy())
        rank = np.concatenate(ranks)
        return {
            "recall@10": float(recall_at_k(rank, 10).mean()),
            "ndcg@10": float(ndcg_at_k(rank, 10).mean()),
        }

    def _loss(self, states_PD: Tensor, targets_P: Tensor) -> Tensor:
        if self.config.num_negatives is None:
            return catalogue_loss(states_PD, self.model.items.weight[:-1], targets_P)
        negatives_N = torch.randint(
            self.model.num_items, (self.config.num_negatives,), device=self.device
        )
        return sampled_loss(states_PD, self.model.items, targets_P, negatives_N)


def _new_model(config: SasrecConfig, num_items: int) -> Sasrec:
    return Sasrec(
        num_items=num_items,
        hidden=config.hidden,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        max_length=config.max_length,
        dropout=config.dropout,
    )


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
