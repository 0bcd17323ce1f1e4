"""Options of the alignment stage."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from transformers import TrainingArguments
from trl import DPOConfig

from dasrec.core import StageConfig
from dasrec.generative.options import check_options, field_names
from dasrec.generative.training.trainer import SET_BY_US

_TRAINER_DEFAULTS = {"learning_rate": 1e-4, "max_grad_norm": 0.3, "num_train_epochs": 1}
"""A short walk from the start: on Beauty, five times the rate ends below it."""

_NOT_OURS = ("activation_checkpointing", "gradient_checkpointing")
"""A group shares its prompt's key-value cache, which recomputed activations do not have."""
_NOT_OURS_DPO = (
    *_NOT_OURS,
    "precompute_ref_log_probs",
    "sync_ref_model",
    "ld_alpha",
    "use_weighting",
    "max_length",
    "padding_free",
)


class _PromptsConfig(StageConfig):
    """Which training positions are asked, and how a model is judged."""

    positions_per_user: int = Field(1, ge=1)
    """The last training positions of every user that become prompts."""

    max_prompts: int | None = Field(None, ge=1)
    """A fixed random subset of the prompts; none given = all."""

    lora: dict[str, Any] | None = None
    """Adapter for a start that has none (peft.LoraConfig); a start with one continues it."""

    validation_queries: int = Field(2000, ge=0)
    """Validation queries (a fixed random subset) that choose the best epoch; 0 keeps the last."""

    validation_beams: int = Field(20, ge=1)
    """Beams of the validation lists."""

    trainer: dict[str, Any] = {}  # noqa: RUF012  pydantic copies defaults
    """Options of the trainer."""

    @property
    def trainer_options(self) -> dict[str, Any]:
        """Ours for alignment, then the user's."""
        return {**_TRAINER_DEFAULTS, **self.trainer}


class DpoConfig(_PromptsConfig):
    """Direct preference optimisation: the next training item against items the model confuses."""

    method: Literal["dpo"] = "dpo"

    negatives: int = Field(1, ge=1)
    """Rejected items per prompt; more than one gives S-DPO (softmax DPO, 2406.09215)."""

    hard: Literal["beam", "sibling", "popularity"] = "beam"
    """Rejected items: the best of the start model's own search; of these, first those that share
    the longest prefix with the target; or drawn by training popularity."""

    candidates: int = Field(20, ge=1)
    """Items of the search that the rejected ones are taken from."""

    trainer: dict[str, Any] = {}  # noqa: RUF012  pydantic copies defaults
    """Handed to trl.DPOConfig as is (beta, loss_type, loss_weights, ...), after our defaults:
    learning_rate 1e-4, max_grad_norm 0.3, num_train_epochs 1."""

    @model_validator(mode="after")
    def _known_options(self) -> "DpoConfig":
        ours = (*SET_BY_US, *_NOT_OURS_DPO)
        check_options(self.trainer, field_names(DPOConfig), "trl.DPOConfig", ours)
        if self.hard != "popularity" and self.candidates < self.negatives:
            raise ValueError(
                f"candidates: at least 'negatives' = {self.negatives} needed, got {self.candidates}"
            )
        return self


class RewardWeights(StageConfig):
    """What a proposed item earns: a weighted sum of these."""

    hit: float = 1.0
    """1 for the target, else 0."""

    rank: float = 1.0
    """Penalty of misses by rank, in groups that hold the target (MiniOneRec, 2510.24431)."""

    prefix: float = 0.0
    """10^(m - L) for m > 0 first codes shared with the target (OpenOneRec's 1, 10, 100)."""

    ranker: float = 0.0
    """Score of a CTR model, handed in as `reward_scores`."""

    @model_validator(mode="after")
    def _any(self) -> "RewardWeights":
        if not any((self.hit, self.rank, self.prefix, self.ranker)):
            raise ValueError("rewards: all weights are 0; nothing would be learned")
        return self


class GrpoConfig(_PromptsConfig):
    """Group-relative policy optimisation on items of the constrained search."""

    method: Literal["grpo"] = "grpo"

    group_size: int = Field(16, ge=2)
    """Items proposed per prompt."""

    rollout: Literal["beam", "sample"] = "beam"
    """`beam` takes the best items; `sample` draws them without replacement from all that the
    user may get, in proportion to their probability."""

    add_target: bool = False
    """Put the target in the last place of a group without it. No more on-policy: the model learns
    from an item that it did not propose."""

    rewards: RewardWeights = RewardWeights()
    """What a proposed item earns."""

    beta: float = Field(1e-3, ge=0)
    """Weight of the KL divergence from the start model; 0 leaves it out."""

    epsilon_low: float = Field(0.2, gt=0, lt=1)
    """The probability ratio is clipped below at 1 - epsilon_low."""

    epsilon_high: float = Field(0.28, gt=0)
    """The probability ratio is clipped above at 1 + epsilon_high."""

    updates_per_rollout: int = Field(1, ge=1)
    """Optimizer steps on one batch of proposals; only from the second on can the clip act."""

    trainer: dict[str, Any] = {}  # noqa: RUF012  pydantic copies defaults
    """Handed to transformers.TrainingArguments as is, after the same defaults as for DPO."""

    @model_validator(mode="after")
    def _known_options(self) -> "GrpoConfig":
        ours = (*SET_BY_US, *_NOT_OURS)
        known = field_names(TrainingArguments)
        check_options(self.trainer, known, "transformers.TrainingArguments", ours)
        if self.updates_per_rollout > 1 and self.trainer.get("gradient_accumulation_steps", 1) > 1:
            raise ValueError(
                "updates_per_rollout: more than 1 needs gradient_accumulation_steps = 1; raise "
                "per_device_train_batch_size instead"
            )
        if self.trainer.get("save_steps", 0) % self.updates_per_rollout:
            raise ValueError(
                "trainer.save_steps: a multiple of updates_per_rollout = "
                f"{self.updates_per_rollout} needed, for proposals are not saved"
            )
        return self


AlignConfig = Annotated[DpoConfig | GrpoConfig, Field(discriminator="method")]
"""Options of `align`, by `method`."""
