"""Stage: a frozen generator and its training log -> "item_head".

Shape letters: P next items, Q queries, H hidden width, I items, W items with training interactions.
"""

import math
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dasrec.core import (
    Corpus,
    Manifest,
    SemanticIds,
    check_free,
    generator,
    load_manifest,
    recipe_digest,
    seed_everything,
    work_dir,
    write_artifact,
)
from dasrec.core.catalogue_lists import seen_pairs
from dasrec.core.corpus import Int64s
from dasrec.core.softmax_loss import catalogue_loss
from dasrec.core.training import fit
from dasrec.eval.ranking_metrics import ndcg_at_k, recall_at_k
from dasrec.generative.item_head.config import ItemHeadConfig
from dasrec.generative.item_head.model import ItemHead, codewords
from dasrec.generative.item_head.states import NextItems, query_states, training_states
from dasrec.generative.model.load import Generator, generator_manifest, load_generator

NAME = "item_head"
VALID_BLOCK = 1024


def item_head_inputs(
    generator_path: Path, corpus: Corpus, sids: SemanticIds
) -> dict[str, Manifest]:
    """Manifests of all that a head is made from."""
    return {
        "corpus": corpus.manifest,
        "semantic_ids": sids.manifest,
        "generator": generator_manifest(generator_path),
    }


def train_item_head(
    config: ItemHeadConfig,
    generator_path: Path,
    corpus: Corpus,
    sids: SemanticIds,
    out: Path,
    *,
    seed: int = 0,
    replace: bool = False,
) -> Manifest:
    """Train the head by full cross-entropy over the items that have training interactions.

    Args:
        config: of the training.
        generator_path: a generator, or a base_model that was not fine-tuned; it stays as it is.
        corpus: the head's weights see its training interactions; validation chooses the epoch.
        sids: what the generator was trained on, or a later version.
        out: directory of the "item_head" artifact.
        seed: of weights, batches and dropout.
        replace: swap an artifact that is already at `out`.

    Raises:
        FileExistsError: `out` exists and `replace` is false.
        ValueError: no validation queries, or artifacts that do not belong together.
    """
    check_free(out, replace)
    if not len(corpus.queries("valid")):
        raise ValueError("item_head: no validation queries to choose the epoch on; check the split")
    inputs = item_head_inputs(generator_path, corpus, sids)
    prints = {name: manifest.fingerprint for name, manifest in inputs.items()}
    work = work_dir(out, recipe_digest(NAME, config.as_json(), prints, seed))
    began = time.perf_counter()
    frozen = load_generator(generator_path, sids)
    seed_everything(seed, NAME, "init")
    trainer = _Trainer(config, frozen, corpus, sids, seed)
    result = fit(
        trainer.head,
        {"optimizer": trainer.optimizer},
        trainer.run_epoch,
        name=NAME,
        num_epochs=config.epochs,
        seed=seed,
        work=work,
        validate=trainer.validate,
        primary="ndcg@10",
        patience=config.patience,
    )
    manifest = write_artifact(
        out,
        NAME,
        config.as_json(),
        inputs,
        lambda scratch: save_file(_weights(trainer.head), scratch / "model.safetensors"),
        seed=seed,
        metrics={
            "states": len(trainer.data.items_P),
            "best_epoch": result.best_epoch,
            "valid": result.best_metrics,
            "history": result.history,
            "seconds": round(time.perf_counter() - began, 2),
        },
        replace=replace,
    )
    shutil.rmtree(work)
    return manifest


def load_item_head(
    path: Path, frozen: Generator, corpus: Corpus, sids: SemanticIds
) -> tuple[ItemHead, Manifest]:
    """Open an "item_head" artifact in eval mode, on the CPU.

    Raises:
        FileNotFoundError: there is none at `path`.
        ValueError: it was made from another corpus, other SIDs or another generator.
    """
    made_from = {
        "corpus": corpus.manifest,
        "semantic_ids": sids.manifest,
        "generator": frozen.manifest,
    }
    manifest = load_manifest(path, NAME, made_from)
    head = ItemHead(_codewords(frozen, sids))
    head.load_state_dict(load_file(path / "model.safetensors"))
    return head.eval(), manifest


def _codewords(frozen: Generator, sids: SemanticIds) -> Tensor:
    return codewords(frozen.model, torch.from_numpy(frozen.vocabulary.item_tokens(sids)))


def _weights(head: ItemHead) -> dict[str, Tensor]:
    return {key: value.detach().cpu().contiguous() for key, value in head.state_dict().items()}


class _Trainer:
    """Head, optimizer and the two steps that `fit` repeats."""

    def __init__(
        self,
        config: ItemHeadConfig,
        frozen: Generator,
        corpus: Corpus,
        sids: SemanticIds,
        seed: int,
    ) -> None:
        self.config, self.corpus, self.seed = config, corpus, seed
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.head = ItemHead(_codewords(frozen, sids), config.dropout).to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.head.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.data: NextItems = training_states(frozen, corpus, sids, config.max_states, seed)
        # Cold items are no negatives: their own vectors stay zero and their codewords unpunished.
        warm_W = np.flatnonzero(corpus.train_item_count)
        place_I = np.full(corpus.num_items, -1)
        place_I[warm_W] = np.arange(len(warm_W))
        self.warm_W = torch.from_numpy(warm_W).to(self.device)
        self.targets_P = torch.from_numpy(place_I[self.data.items_P])
        queries = corpus.queries("valid")
        number = min(config.valid_queries, len(queries))
        chosen = generator(seed, NAME, "valid").choice(queries, number, replace=False)
        self.queries = np.sort(chosen)
        self.query_states_QH = query_states(frozen, corpus, sids, self.queries)

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over all next items; returns the mean loss in nats."""
        order = generator(self.seed, NAME, "batches", epoch).permutation(len(self.targets_P))
        batches = torch.from_numpy(order).split(self.config.batch_size)
        no_bias, total = torch.zeros((), device=self.device), 0.0
        for step, chosen in enumerate(batches):
            states_BH = self.head(self.data.states_PH[chosen].to(self.device))
            targets_B = self.targets_P[chosen].to(self.device)
            vectors_WH = self.head.vectors(self.warm_W)
            loss = catalogue_loss(states_BH, vectors_WH, targets_B, targets_B[:, None], no_bias)
            done = (epoch + step / len(batches)) / self.config.epochs
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.learning_rate * (1 - done)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(chosen)
        if not math.isfinite(total):
            raise ValueError(
                f"item_head: the loss is {total} in epoch {epoch}; lower train.learning_rate "
                f"(now {self.config.learning_rate})"
            )
        return {"loss": total / len(self.targets_P)}

    def validate(self, epoch: int) -> dict[str, float]:
        """Recall@10 and NDCG@10 of the head alone over the whole catalogue."""
        vectors_IH, ranks = self.head.vectors(), []
        barred = self.corpus.excludes_seen("as_in_training")
        for start in range(0, len(self.queries), VALID_BLOCK):
            block = self.queries[start : start + VALID_BLOCK]
            states_BH = self.query_states_QH[start : start + VALID_BLOCK].to(self.device)
            scores_BI = self.head(states_BH) @ vectors_IH.T
            ranks.append(target_rank(scores_BI.cpu(), self.corpus, block, barred=barred))
        rank = np.concatenate(ranks)
        return {
            "recall@10": float(recall_at_k(rank, 10).mean()),
            "ndcg@10": float(ndcg_at_k(rank, 10).mean()),
        }


def target_rank(scores_BI: Tensor, corpus: Corpus, queries: Int64s, *, barred: bool) -> Int64s:
    """(B,) rank of each query's target, from 1; what ties with it counts as behind.

    Args:
        scores_BI: of the catalogue.
        corpus: whose queries they are.
        queries: rows of the corpus.
        barred: whether what the user had before does not count.
    """
    target_B1 = torch.from_numpy(corpus.item_idx[queries].astype(np.int64))[:, None]
    own_B1 = scores_BI.gather(1, target_B1)
    ahead_BI = scores_BI > own_B1
    if barred:
        row, item = seen_pairs(corpus, queries)
        ahead_BI[torch.from_numpy(row), torch.from_numpy(item.astype(np.int64))] = False
    rank: Int64s = 1 + ahead_BI.sum(1).numpy()
    return rank
