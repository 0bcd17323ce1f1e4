"""Stage: train SASRec on the training sequences.

Shape letters: B sequences or queries, T places, P real positions, D hidden size, I items.
"""

import math
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dasrec.baselines.sasrec_artifact import (
    SasrecConfig,
    default_device,
    new_model,
    save_sasrec_payload,
    score_queries,
)
from dasrec.baselines.sequences import (
    Windows,
    pad,
    repeat_log_rate,
    seen_at,
    shuffled_batches,
    training_windows,
)
from dasrec.core import (
    Corpus,
    Manifest,
    check_free,
    generator,
    recipe_digest,
    seed_everything,
    work_dir,
    write_artifact,
)
from dasrec.core.corpus import Int64s
from dasrec.core.softmax_loss import catalogue_loss, sampled_loss
from dasrec.core.training import fit
from dasrec.eval.ranking_metrics import ndcg_at_k, recall_at_k


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
    check_free(out, replace)
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
    manifest = write_artifact(
        out,
        "sasrec_model",
        config.as_json(),
        {"corpus": corpus.manifest},
        lambda scratch: save_sasrec_payload(scratch, config, trainer.model),
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


class _Trainer:
    """Model, optimizer and the two steps that `fit` repeats."""

    def __init__(self, config: SasrecConfig, corpus: Corpus, windows: Windows, seed: int) -> None:
        self.config, self.corpus, self.windows, self.seed = config, corpus, windows, seed
        self.device = default_device()
        self.model = new_model(config, corpus.num_items, repeat_log_rate(windows))
        self.model.to(self.device)
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
        batches = list(shuffled_batches(self.windows.length, self.config.batch_size, order))
        total, num_targets = 0.0, 0
        for step, parts in enumerate(batches):
            targets = sum(int(self.windows.length[part].sum()) for part in parts)
            loss = torch.stack([self._total_loss(part) for part in parts]).sum() / targets
            done = (epoch + step / len(batches)) / self.config.epochs
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.learning_rate * (1 - done)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item() * targets
            num_targets += targets
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
            scores_BI = score_queries(self.model, self.corpus, block)
            target_B = torch.from_numpy(self.corpus.item_idx[block].astype(np.int64))
            own_B1 = scores_BI.gather(1, target_B.to(self.device)[:, None])
            ranks.append(1 + (scores_BI > own_B1).sum(1).cpu().numpy())
        rank = np.concatenate(ranks)
        return {
            "recall@10": float(recall_at_k(rank, 10).mean()),
            "ndcg@10": float(ndcg_at_k(rank, 10).mean()),
        }

    def _total_loss(self, chosen: Int64s) -> Tensor:
        """Loss of some windows, summed over their targets."""
        inputs_BT = pad(self.windows, chosen, self.model.num_items).to(self.device)
        targets_BT = pad(self.windows, chosen, self.model.num_items, shift=1).to(self.device)
        real_BT = inputs_BT < self.model.num_items
        targets_P = targets_BT[real_BT]
        states_PD = self.model(inputs_BT)[real_BT]
        return self._loss(states_PD, targets_P, seen_at(inputs_BT, real_BT)) * len(targets_P)

    def _loss(self, states_PD: Tensor, targets_P: Tensor, seen_PT: Tensor) -> Tensor:
        weights_ID, bias = self.model.item_weights, self.model.repeat_bias
        number = self.config.num_negatives
        if number is None or number >= self.model.num_items:
            return catalogue_loss(states_PD, weights_ID, targets_P, seen_PT, bias)
        negatives_N = torch.randperm(self.model.num_items, device=self.device)[:number]
        return sampled_loss(states_PD, weights_ID, targets_P, seen_PT, bias, negatives_N)
