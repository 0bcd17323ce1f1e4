"""One epoch of tokenizer training: batches, schedules, optimizer, care of the codebooks."""

import logging
import math
from collections import defaultdict
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from dasrec.core import generator
from dasrec.core.processes import average, average_gradients
from dasrec.tokenizer.kmeans import init_codebooks, restart_unused
from dasrec.tokenizer.objective import Objective, Phase, Step
from dasrec.tokenizer.report import perplexity

log = logging.getLogger(__name__)

GRADIENT_NORM = 5.0
LR_WARMUP = 0.02  # share of a phase's steps


class Optimizing(Protocol):
    """What a method's config says about its optimizer, where it has something to train."""

    @property
    def learning_rate(self) -> float:
        """Peak step."""
        ...

    @property
    def id_learning_rate(self) -> float:
        """That of ID embeddings."""
        ...

    @property
    def weight_decay(self) -> float:
        """Of the MLPs."""
        ...

    @property
    def restart_until(self) -> float:
        """Share of a phase with codebooks after which none of their codewords is restarted."""
        ...


class Trainer:
    """What an epoch needs beside the objective: optimizer and schedules."""

    def __init__(
        self, objective: Objective, config: Optimizing, seed: int, *, warm: bool = False
    ) -> None:
        """Plan the phases.

        Args:
            objective: the method.
            config: step sizes, and until when unused codewords are restarted.
            seed: the run's seed.
            warm: the codebooks are trained already: no k-means, no epochs without quantization.
        """
        self.objective, self.config, self.seed, self.warm = objective, config, seed, warm
        self.optimizer = make_optimizer(objective, config)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]

    @property
    def num_epochs(self) -> int:
        """Of all phases."""
        return sum(phase.epochs for phase in self.objective.phases)

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """Train one epoch; a function of the objective, the optimizer and the epoch's number.

        Raises:
            ValueError: the loss is not finite.
        """
        rng = generator(self.seed, "tokenizer", "epoch", epoch)
        phase, within = self._phase(epoch)
        trained = phase.continuous_epochs is not None
        quantize = trained and (self.warm or within >= (phase.continuous_epochs or 0))
        if trained and not self.warm and within == phase.continuous_epochs:
            for name, side, x in self.objective.autoencoders():
                init_codebooks(side.quantizer, side.encode(x), rng.integers(2**31).item())
                log.info("tokenizer: k-means set the %s codebooks", name)
        steps, done = self.objective.num_steps(phase.name), 0
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
        for batch in self.objective.batches(phase.name, rng):
            progress = (within + min(1.0, done / steps)) / phase.epochs
            for name, value in self._step(batch, Step(phase.name, progress, quantize)).items():
                sums[name] = sums[name] + value
            done += 1
        metrics = {name: total / done for name, total in average(sums).items()}
        if not math.isfinite(metrics["total"]):
            raise ValueError(
                f"tokenizer: the loss of epoch {epoch + 1} is {metrics['total']}; training "
                f"diverged, lower learning_rate ({self.config.learning_rate})"
            )
        if quantize:
            first = 0 if self.warm else phase.continuous_epochs or 0
            metrics |= self._census((within + 1 - first) / (phase.epochs - first), rng)
        return metrics

    def _phase(self, epoch: int) -> tuple[Phase, int]:
        for phase in self.objective.phases:
            if epoch < phase.epochs:
                return phase, epoch
            epoch -= phase.epochs
        raise AssertionError("more epochs than the phases have")

    def _step(self, batch: object, step: Step) -> dict[str, Tensor]:
        scale = learning_rate_scale(step.progress)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * scale
        losses = self.objective.losses(batch, step)
        losses["total"] = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()
        average_gradients(self.objective)
        clip_gradients(list(self.objective.parameters()))
        self.optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    def _census(self, progress: float, rng: np.random.Generator) -> dict[str, float]:
        """Codebook usage over the whole catalogue; unused codewords are restarted."""
        metrics: dict[str, float] = {}
        for name, side, x in self.objective.autoencoders():
            codes_NL, _, residuals = side.quantizer.encode(side.encode(x))
            for level, book in enumerate(side.codebooks):
                count_K = np.bincount(codes_NL[:, level].cpu().numpy(), minlength=len(book))
                metrics[f"{name}/usage_{level}"] = float((count_K > 0).mean())
                metrics[f"{name}/perplexity_{level}"] = perplexity(count_K)
            if progress <= self.config.restart_until:
                moved = restart_unused(side.quantizer, codes_NL, residuals, self.optimizer, rng)
                metrics[f"{name}/restarted"] = moved
        return metrics


def clip_gradients(parameters: list[nn.Parameter]) -> None:
    """Scale the gradients down to norm GRADIENT_NORM where it is larger.

    torch's clip_grad_norm_ multiplies by 1 where it is not, a pass over every ID table.
    """
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if not norm <= GRADIENT_NORM:  # NaN must reach the check of the loss
        nn.utils.clip_grads_with_norm_(parameters, GRADIENT_NORM, norm)


def make_optimizer(objective: Objective, config: Optimizing) -> torch.optim.AdamW:
    """AdamW in three groups: MLPs (decayed), codebooks and scales, ID embeddings (own step)."""
    named = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    ids = [p for name, p in named.items() if name.endswith(".ids.weight")]
    plain = [p for name, p in named.items() if ".codebooks." in name or "log_scale" in name]
    special = {id(p) for p in [*ids, *plain]}
    rest = [p for p in named.values() if id(p) not in special]
    rate = config.learning_rate
    groups = [
        {"params": rest, "lr": rate, "weight_decay": config.weight_decay},
        {"params": plain, "lr": rate},
        {"params": ids, "lr": config.id_learning_rate},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=0.0, fused=True)


def learning_rate_scale(progress: float) -> float:
    """Linear warm-up, then a cosine to 0, over a phase's progress in [0, 1)."""
    return min(1.0, progress / LR_WARMUP + 1e-3) * 0.5 * (1 + math.cos(math.pi * progress))
