"""The training loop of the CTR model, on one process or several."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dasrec.core.processes import average, average_gradients, average_tensors, share, weight
from dasrec.core.processes import processes as run_processes
from dasrec.core.seeding import derive_seed
from dasrec.core.training import FitResult, fit
from dasrec.eval.ctr_metrics import auc, logloss, user_aucs
from dasrec.ranking.config import RankingConfig
from dasrec.ranking.ranker import Ranker
from dasrec.ranking.row_tensors import RowTensors, to_tensors
from dasrec.ranking.rows import Rows, some_rows


def fit_ranker(
    config: RankingConfig, ranker: Ranker, train: Rows, valid: Rows, seed: int, work: Path
) -> FitResult:
    """Train until validation GAUC no longer rises; the ranker ends with its best weights.

    Under `accelerate launch` every process draws the same batch and takes its share of the rows;
    all see the same validation figures, so that they stop together.

    Args:
        config: how long and how fast.
        ranker: untrained.
        train: rows to learn from.
        valid: rows that choose the epoch.
        seed: of the order of rows.
        work: directory of the checkpoint.
    """
    model = ranker.model
    # Fused: one pass over the tables, which are larger than a batch; several times as fast.
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    rows = to_tensors(train, model.schema, ranker.source.device)

    def run_epoch(epoch: int) -> dict[str, float]:
        order = torch.Generator().manual_seed(derive_seed(seed, "ranking", "order", epoch))
        shuffled = torch.randperm(len(train.label), generator=order).to(rows.user_M.device)
        total = torch.zeros((), device=shuffled.device)
        batches = torch.split(shuffled, config.batch_size)
        for step, picked in enumerate(batches):
            # of the step alone, so that a resumed run goes on alike
            set_learning_rate(config, optimizer, epoch + step / len(batches))
            loss = batch_loss(ranker, rows, share(picked), weight(len(picked)))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            average_gradients(model)
            optimizer.step()
            total += loss.detach() * len(picked)
        return {"loss": average({"loss": total})["loss"] / len(shuffled)}

    def validate(epoch: int) -> dict[str, float]:
        _average_statistics(model)
        logits = _score_together(ranker, valid, config.batch_size)
        return {
            "gauc": user_aucs(valid.user_idx, valid.label, logits).gauc,
            "auc": auc(valid.label, logits),
            "logloss": logloss(valid.label, logits),
        }

    return fit(
        model,
        {"optimizer": optimizer},
        run_epoch,
        name="ranking",
        num_epochs=config.epochs,
        seed=seed,
        work=work,
        validate=validate,
        primary="gauc",
        patience=config.patience,
        write=run_processes().is_main_process,
    )


def set_learning_rate(
    config: RankingConfig, optimizer: torch.optim.Optimizer, epochs_done: float
) -> None:
    """Set what the schedule has after so many epochs."""
    if config.schedule == "linear":
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * (1 - epochs_done / config.epochs)


def batch_loss(ranker: Ranker, rows: RowTensors, picked: Tensor, scale: float) -> Tensor:
    """`scale` times the summed cross-entropy (nats) of the picked rows, and auxiliary losses."""
    batch = ranker.source.batch(
        rows.user_M[picked],
        rows.item_M[picked],
        rows.end_M[picked],
        rows.category_MC[picked],
        rows.number_MC[picked],
    )
    logits, labels = ranker.model(batch), rows.label_M[picked]
    loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    return scale * (loss + len(picked) * ranker.model.embedding.auxiliary_loss(batch))


def _average_statistics(model: nn.Module) -> None:
    """Give all processes the same running averages (Dice), each having seen its own rows."""
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm1d)]
    running = [(norm.running_mean, norm.running_var) for norm in norms]
    average_tensors([part for pair in running for part in pair if part is not None])


def _score_together(ranker: Ranker, rows: Rows, batch_size: int) -> npt.NDArray[np.float32]:
    """Logits of all rows, each process having scored its share of them."""
    state = run_processes()
    if state.num_processes == 1:
        return ranker.score_rows(rows, batch_size)
    mine = slice(state.process_index, None, state.num_processes)
    logits = torch.zeros(len(rows.label))
    logits[mine] = torch.from_numpy(ranker.score_rows(some_rows(rows, mine), batch_size))
    on_device = logits.to(ranker.source.device)
    average_tensors([on_device])
    summed: npt.NDArray[np.float32] = (on_device * state.num_processes).cpu().numpy()
    return summed
