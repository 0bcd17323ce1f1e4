"""DPO and S-DPO on trl.DPOTrainer, with our log-probabilities in place of its own.

S-DPO (2406.09215, eq. 9) is -log sigmoid(-log sum_n exp(beta (r_n - r_0))), where r is the
log-ratio to the reference of a rejected item n and of the chosen one. That is DPO against one
rejected item of log-ratio (1 / beta) log sum_n exp(beta r_n), so trl's pairwise losses serve both,
and with one negative it is DPO.

Shape letters: B prompts, N negatives, G = 1 + N candidates (the chosen one first), L levels.
"""

import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from trl import DPOTrainer

from dasrec.generative.preference.prompts import Prompts
from dasrec.generative.preference.scoring import CandidateScorer
from dasrec.generative.training.trainer import SidTrainerMixin

_OF_THE_FULL_VOCABULARY = ("entropy", "logits/chosen", "logits/rejected", "mean_token_accuracy")


class DpoCollator:
    """Numbers of prompts -> tensors, cut from flat arrays."""

    packed = False

    def __init__(self, prompts: Prompts, items_PG: npt.NDArray[np.int64]) -> None:
        """Remember prompts and candidates; `reference_PG` is filled in before training."""
        self.prompts = prompts
        self.items_PG = items_PG
        self.reference_PG = np.zeros(items_PG.shape, np.float32)

    def __call__(self, numbers: list[np.int64]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` (B, T), `items`, `reference` (B, G)."""
        chosen = np.array(numbers)
        input_ids, attention_mask = self.prompts.padded(chosen)
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "items": torch.from_numpy(self.items_PG[chosen]),
            "reference": torch.from_numpy(self.reference_PG[chosen]),
        }


class Pairs(NamedTuple):
    """What trl's loss reads: one log-probability per code, chosen rows then rejected ones."""

    log_probs: Tensor
    """(2 B, L)"""
    ref_chosen_logps: Tensor
    """(B,)"""
    ref_rejected_logps: Tensor
    """(B,)"""


def softmax_pairs(log_prob_BGL: Tensor, reference_BG: Tensor, beta: float) -> Pairs:
    """All rejected items as one, of log-ratio (1 / beta) log sum_n exp(beta r_n)."""
    ratio_BN = log_prob_BGL[:, 1:].sum(-1) - reference_BG[:, 1:]
    rejected_B = (beta * ratio_BN).logsumexp(1) / beta
    rejected_BL = F.pad(rejected_B.unsqueeze(1), (0, log_prob_BGL.shape[2] - 1))
    return Pairs(
        torch.cat([log_prob_BGL[:, 0], rejected_BL]),
        reference_BG[:, 0],
        torch.zeros_like(reference_BG[:, 0]),
    )


class SidDpoTrainer(SidTrainerMixin, DPOTrainer):  # type: ignore[misc]  # trl is untyped here
    """trl.DPOTrainer whose log-probabilities are over the codes of a level."""

    figures = ("rewards/margins", "rewards/accuracies")

    def __init__(self, scorer: CandidateScorer, **options: Any) -> None:
        """Start as trl does, without its reference adapter.

        trl copies the adapter by names that leave out the trained token rows, which gives a wrong
        reference; ours are log-probabilities computed once, by `fill_reference`.

        Args:
            scorer: of candidate items.
            options: of trl.DPOTrainer.
        """
        super().__init__(**options)
        if "ref" in self.model.peft_config:
            self.model.delete_adapter("ref")
        self.scorer = scorer
        self.precompute_ref_logps = True
        self.aux_loss_enabled = False

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    @torch.no_grad()
    def fill_reference(self, numbers: npt.NDArray[np.int64]) -> None:
        """Score all candidates of some prompts with the model as it is now."""
        collator, batch_size = self.data_collator, self.args.per_device_train_batch_size
        lengths = collator.prompts.tokens.lengths[numbers]
        order = numbers[np.argsort(-lengths, kind="stable")]
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            batch = self._prepare_inputs(collator(rows))
            with self.accelerator.autocast():
                scores = self._log_probs(self.model, batch).sum(-1)
            collator.reference_PG[rows] = scores.float().cpu().numpy()

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """trl's loss of the configured `loss_type` on our log-probabilities."""
        log_prob_BGL = self._log_probs(model, inputs)
        reference_BG = inputs["reference"]
        if self.state.global_step == 0 and self.model.training:
            half = self.args.bf16 or self.args.fp16 or model.dtype != torch.float32
            tolerance = 1e-2 if half else 1e-4
            check_reference(log_prob_BGL.detach().sum(-1) - reference_BG, self.beta, tolerance)
        pairs = softmax_pairs(log_prob_BGL, reference_BG, self.beta)
        unused = torch.zeros_like(pairs.log_probs)
        answer = SimpleNamespace(
            log_probs=pairs.log_probs, entropy=unused, mean_logits=unused, is_top1=unused.bool()
        )
        ones = torch.ones(len(unused), unused.shape[1] + 1, dtype=torch.int64, device=unused.device)
        begin = F.pad(ones[:, 1:], (1, 0))
        asked = {
            "input_ids": ones,
            "attention_mask": ones,
            "completion_mask": begin,
            "ref_chosen_logps": pairs.ref_chosen_logps,
            "ref_rejected_logps": pairs.ref_rejected_logps,
        }
        loss = self._compute_loss(lambda **_: answer, asked, return_outputs=False)
        self._note(log_prob_BGL.detach().sum(-1), reference_BG)
        return (loss, answer) if return_outputs else loss

    def _note(self, log_prob_BG: Tensor, reference_BG: Tensor) -> None:
        """Mend trl's figures, which take the negatives for one and know no vocabulary of ours."""
        noted = self._metrics["train" if self.model.training else "eval"]
        reward_BG = self.beta * (log_prob_BG - reference_BG)
        margin_BN = reward_BG[:, :1] - reward_BG[:, 1:]
        for name, value in (
            ("rewards/rejected", reward_BG[:, 1:]),
            ("rewards/margins", margin_BN),
            ("rewards/accuracies", (margin_BN > 0).float()),
            ("logps/rejected", log_prob_BG[:, 1:]),
        ):
            noted[name][-1] = float(value.mean())
        for name in _OF_THE_FULL_VOCABULARY:
            noted.pop(name, None)

    def _log_probs(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        logits = self.scorer.logits(
            model, inputs["input_ids"], inputs["attention_mask"], inputs["items"]
        )
        return self.scorer.log_probs(logits, inputs["items"])


def check_reference(ratio_BG: Tensor, beta: float, tolerance: float) -> None:
    """Refuse to train against a reference that is not the model as it starts.

    Before the first step all log-ratios are 0, so the loss is log(1 + N): 0.6931 for one negative.

    Raises:
        RuntimeError: it is not, by more than `tolerance`.
    """
    margin_B = (beta * ratio_BG[:, 1:]).logsumexp(1) - beta * ratio_BG[:, 0]
    loss, expected = float(F.softplus(margin_B).mean()), math.log(ratio_BG.shape[1])
    if abs(loss - expected) > tolerance:
        raise RuntimeError(
            f"dpo: the first loss is {loss:.4f} instead of {expected:.4f}: the reference is not "
            "the start model; please report this with the versions of trl and peft"
        )
