"""One epoch of tokenizer training: batches, schedules, optimizer, care of the codebooks."""

import logging
import math
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from dasrec.core import Corpus, Embeddings, generator
from dasrec.tokenizer.autoencoder import Autoencoder
from dasrec.tokenizer.config import TokenizerConfig
from dasrec.tokenizer.kmeans import init_codebooks, restart_unused
from dasrec.tokenizer.model import Clicks, Das
from dasrec.tokenizer.pairs import PairSampler, plain_batches
from dasrec.tokenizer.report import perplexity

log = logging.getLogger(__name__)

GRADIENT_NORM = 5.0
LR_WARMUP = 0.02  # share of the steps


class Trainer:
    """What an epoch needs beside the model: data on hand, optimizer, schedules."""

    def __init__(self, model: Das, corpus: Corpus, embeddings: Embeddings, seed: int) -> None:
        self.model, self.config, self.seed = model, model.config, seed
        self.x_items = torch.from_numpy(np.array(embeddings.items, np.float32))
        self.x_users = torch.from_numpy(np.array(embeddings.users, np.float32))
        self.sampler = None
        if self.config.uses_pairs:
            alignment = self.config.alignment
            self.sampler = PairSampler(corpus, alignment.window, alignment.damping)
        self.optimizer = make_optimizer(model)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """Train one epoch; a function of the model, the optimizer and the epoch's number."""
        rng = generator(self.seed, "tokenizer", "epoch", epoch)
        if epoch == self.config.continuous_epochs:
            for name, side, x in self._sides():
                init_codebooks(side.quantizer, side.encode(x), rng.integers(2**31).item())
                log.info("tokenizer: k-means set the %s codebooks", name)
        quantize = epoch >= self.config.continuous_epochs
        batches = list(self._batches(rng))
        sums: dict[str, float] = defaultdict(float)
        for step, batch in enumerate(batches):
            progress = (epoch + step / len(batches)) / self.config.epochs
            for name, value in self._step(*batch, progress, quantize).items():
                sums[name] += value
        metrics = {name: value / len(batches) for name, value in sums.items()}
        if quantize:
            metrics |= self._census(epoch, rng)
        return metrics

    def _batches(self, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor, Clicks | None]]:
        """(items, users, clicks) of each step; items and users as row numbers."""
        size = self.config.batch_size
        if self.sampler is None:
            num_users = len(self.x_users) if self.config.user_side else 0
            for users, items in plain_batches(num_users, len(self.x_items), size, rng):
                yield torch.from_numpy(items), torch.from_numpy(users), None
            return
        for batch in self.sampler.batches(self.sampler.epoch(rng), size):
            clicks = Clicks.of(batch)
            yield clicks.items, clicks.users, clicks

    def _step(
        self, items: Tensor, users: Tensor, clicks: Clicks | None, progress: float, quantize: bool
    ) -> dict[str, float]:
        config = self.config
        scale = learning_rate_scale(progress)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * scale
        beta = config.beta * min(1.0, progress / config.beta_warmup) if config.beta_warmup else None
        losses = self.model(
            self.x_items[items], self.x_users[users], clicks, quantize=quantize, beta=beta
        )
        self.optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM)
        self.optimizer.step()
        return {name: value.item() for name, value in losses.items()}

    def _census(self, epoch: int, rng: np.random.Generator) -> dict[str, float]:
        """Codebook usage over the whole catalogue; unused codewords are restarted."""
        restart = (epoch + 1) / self.config.epochs <= self.config.restart_until
        metrics = {}
        for name, side, x in self._sides():
            codes_NL, _, residuals = side.quantizer.encode(side.encode(x))
            for level, size in enumerate(self.config.level_sizes):
                count_K = np.bincount(codes_NL[:, level].numpy(), minlength=size)
                metrics[f"{name}/usage_{level}"] = float((count_K > 0).mean())
                metrics[f"{name}/perplexity_{level}"] = perplexity(count_K)
            if restart:
                moved = restart_unused(side.quantizer, codes_NL, residuals, self.optimizer, rng)
                metrics[f"{name}/restarted"] = moved
        return metrics

    def _sides(self) -> Iterator[tuple[str, Autoencoder, Tensor]]:
        yield "item", self.model.items, self.x_items
        if self.model.users is not None:
            yield "user", self.model.users, self.x_users


def make_optimizer(model: Das) -> torch.optim.AdamW:
    """AdamW in three groups: MLPs (decayed), codebooks, and ID embeddings (own step size)."""
    config: TokenizerConfig = model.config
    named = list(model.named_parameters())
    ids = [p for name, p in named if name.endswith(".ids.weight")]
    codebooks = [p for name, p in named if ".codebooks." in name]
    special = {id(p) for p in [*ids, *codebooks]}
    rest = [p for _, p in named if id(p) not in special]
    groups = [
        {"params": rest, "lr": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": codebooks, "lr": config.learning_rate},
    ]
    if ids:
        groups.append({"params": ids, "lr": config.icdm.learning_rate})
    return torch.optim.AdamW(groups, weight_decay=0.0, fused=True)


def learning_rate_scale(progress: float) -> float:
    """Linear warm-up, then a cosine to 0, over the run's progress in [0, 1)."""
    return min(1.0, progress / LR_WARMUP + 1e-3) * 0.5 * (1 + math.cos(math.pi * progress))
