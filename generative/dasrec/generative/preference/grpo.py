"""GRPO (2402.03300) on constrained rollouts: the members of a group are different existing items.

A trainer of its own beside trl.GRPOTrainer, which runs every prompt once per member, scores over
the whole vocabulary and passes members to rewards as text. Here one search gives a group, the
prompt runs once per group, and probabilities are those that decoding ranks by.

Shape letters: B prompts, G items of a group, L levels.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from dasrec.generative.preference.config import GrpoConfig
from dasrec.generative.preference.rewards import RewardScores, group_advantages, hit, total_reward
from dasrec.generative.preference.rollouts import PromptBatch, propose
from dasrec.generative.preference.scoring import CandidateScorer, holding
from dasrec.generative.training.trainer import SidTrainerMixin


@dataclass
class Rollout:
    """Proposals for one batch of prompts and what they are worth."""

    batch: PromptBatch
    items: Tensor
    """(B, G), -1 where there is none."""
    advantage: Tensor
    """(B, G)"""
    reference: Tensor | None
    """(B, G, L) log-probabilities under the start model; None without the KL term."""
    old: Tensor | None = None
    """(B, G, L) log-probabilities when they were proposed; None until the first update."""


class SidGrpoTrainer(SidTrainerMixin, Trainer):  # type: ignore[misc]  # transformers is untyped here
    """transformers.Trainer that proposes items, rewards them and raises the better ones."""

    figures = (
        "reward",
        "groups_with_hit",
        "groups_without_gradient",
        "unique",
        "kl",
        "clipped",
        "legal_mass",
    )

    def __init__(
        self,
        config: GrpoConfig,
        scorer: CandidateScorer,
        reference: dict[str, Tensor],
        rewards: RewardScores | None,
        run_seed: int,
        **options: Any,
    ) -> None:
        """Start as transformers does.

        Args:
            config: group, rewards and loss.
            scorer: of candidate items.
            reference: the trained parameters of the start model.
            rewards: the ranker, where its weight is not 0.
            run_seed: of the draws.
            options: of transformers.Trainer.
        """
        super().__init__(**options)
        self.config, self.scorer, self.reference = config, scorer, reference
        self.rewards, self.run_seed = rewards, run_seed
        self._rollout: Rollout | None = None
        self._noted: dict[str, list[float]] = defaultdict(list)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean clipped policy loss over the codes of all proposals, plus beta times the KL."""
        if self._rollout is None or self.state.global_step % self.config.updates_per_rollout == 0:
            self._rollout = self._roll_out(model, PromptBatch(**inputs))
        rollout = self._rollout
        logits = self.scorer.logits(
            model, rollout.batch.input_ids, rollout.batch.attention_mask, rollout.items
        )
        log_prob_BGL = self.scorer.log_probs(logits, rollout.items)
        if rollout.old is None:
            rollout.old = log_prob_BGL.detach()
            mass_BGL = self.scorer.legal_mass(logits, rollout.items)
            self._note({"legal_mass": float(mass_BGL[rollout.items >= 0].mean())})
        loss_BGL, clipped_BGL = clipped_loss(
            log_prob_BGL,
            rollout.old,
            rollout.advantage,
            self.config.epsilon_low,
            self.config.epsilon_high,
        )
        real_BG1 = (rollout.items >= 0).unsqueeze(-1)
        weight_BGL = real_BG1.float().expand_as(loss_BGL) / (real_BG1.sum() * loss_BGL.shape[2])
        noted = {"clipped": clipped_BGL.float()}
        if rollout.reference is not None:
            gap = rollout.reference - log_prob_BGL
            kl_BGL = gap.exp() - gap - 1  # Schulman's k3: unbiased, never negative
            loss_BGL = loss_BGL + self.config.beta * kl_BGL
            noted["kl"] = kl_BGL.detach()
        self._note({name: float((value * weight_BGL).sum()) for name, value in noted.items()})
        loss = (loss_BGL * weight_BGL).sum()
        return (loss, {}) if return_outputs else loss

    @torch.no_grad()
    def _roll_out(self, model: Any, batch: PromptBatch) -> Rollout:
        config, scorer = self.config, self.scorer
        was_training = model.training
        model.eval()
        step = self.state.global_step
        items = propose(config, model, scorer.trie, batch, self.run_seed, step)
        ranker = None
        if self.rewards is not None and config.rewards.ranker:
            scores = self.rewards.score(batch.queries.cpu().numpy(), items.cpu().numpy())
            ranker = torch.from_numpy(scores).to(items.device).masked_fill(items < 0, 0.0)
        reward = total_reward(config.rewards, items, batch.targets, scorer.code_IL, ranker)
        reference = None
        if config.beta:
            with holding(model, self.reference):
                logits = scorer.logits(model, batch.input_ids, batch.attention_mask, items)
                reference = scorer.log_probs(logits, items)
        model.train(was_training)
        advantage = group_advantages(reward, items >= 0)
        real, ordered = items >= 0, items.sort(dim=1).values
        repeats = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        self._note(
            {
                "reward": float(reward[real].mean()),
                "groups_with_hit": float(hit(items, batch.targets).any(1).float().mean()),
                "groups_without_gradient": float((advantage == 0).all(1).float().mean()),
                "unique": 1 - int(repeats.sum()) / max(1, int(real.sum())),
            }
        )
        return Rollout(batch, items, advantage, reference)

    def _note(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._noted[name].append(value)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the means since the last line to the training figures."""
        if "loss" in logs:
            logs |= {name: sum(values) / len(values) for name, values in self._noted.items()}
            self._noted.clear()
        super().log(logs, *args, **kwargs)


def clipped_loss(
    log_prob_BGL: Tensor,
    old_BGL: Tensor,
    advantage_BG: Tensor,
    epsilon_low: float,
    epsilon_high: float,
) -> tuple[Tensor, Tensor]:
    """(B, G, L) -min(ratio A, clip(ratio) A), and where the clip acts (2402.03300, eq. 3)."""
    ratio_BGL = (log_prob_BGL - old_BGL).exp()
    advantage_BG1 = advantage_BG.unsqueeze(-1)
    free = ratio_BGL * advantage_BG1
    clipped = ratio_BGL.clamp(1 - epsilon_low, 1 + epsilon_high) * advantage_BG1
    return -torch.minimum(free, clipped), (clipped < free).detach()
