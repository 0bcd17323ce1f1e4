"""What full and LoRA training share: the SID loss, the batches, validation by generation."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback

from dasrec.generative.data.config import DataConfig
from dasrec.generative.model.packed_attention import last_hidden, packed_batches
from dasrec.generative.training.plan import TrainingPlan
from dasrec.generative.training.validation import PRIMARY

log = logging.getLogger(__name__)

SET_BY_US = (
    "output_dir",
    "seed",
    "data_seed",
    "save_strategy",
    "eval_strategy",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
    "label_smoothing_factor",
    "dataloader_drop_last",
    "train_sampling_strategy",
    "per_device_eval_batch_size",
    "dataloader_persistent_workers",
    "dataloader_prefetch_factor",
)
"""Trainer options that the stage needs for itself (smoothing has a field of its own)."""


class ProgressLog(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Writes the trainer's figures to our log."""

    def __init__(self, name: str, figures: tuple[str, ...]) -> None:
        self.name, self.shown = name, ("loss", "learning_rate", *figures)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """One line per logging step or validation."""
        keep = {k: v for k, v in (logs or {}).items() if k in self.shown}
        keep |= {k.removeprefix("eval_"): v for k, v in (logs or {}).items() if "eval_" in k}
        if keep and state.is_world_process_zero:
            epoch, epochs = state.epoch, state.num_train_epochs
            log.info("%s: epoch %.2f/%d  %s", self.name, epoch, epochs, written_out(keep))


def written_out(figures: Mapping[str, float]) -> str:
    """Figures as progress lines show them."""
    return "  ".join(f"{name} {float(value):.4g}" for name, value in figures.items())


class SaveInsideEpochs(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Also saves every `save_steps` steps, so that a long epoch can be resumed in its middle."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a checkpoint."""
        control.should_save |= state.global_step % state.save_steps == 0


class SidTrainerMixin:
    """Overrides of `transformers.Trainer` (and so of trl's SFTTrainer)."""

    plan: TrainingPlan
    figures: tuple[str, ...] = ()
    """What is shown beside the loss of all that the trainer logs."""

    def start(self: Any, plan: TrainingPlan, name: str, options: dict[str, Any]) -> Any:
        """Train by a plan, from the last checkpoint if there is one.

        Args:
            plan: rows, batches, loss, validation.
            name: shown in progress lines.
            options: the user's trainer options.
        """
        self.plan = plan
        self.add_callback(ProgressLog(name, self.figures))
        self.remove_callback(PrinterCallback)  # our log has the figures
        if "save_steps" in options:
            self.add_callback(SaveInsideEpochs())
        return self.train(resume_from_checkpoint=last_checkpoint(Path(self.args.output_dir)))

    def weights(self: Any) -> dict[str, Tensor]:
        """State dict of the model; where it is cut into shards, all processes must ask."""
        state: dict[str, Tensor] = self.accelerator.get_state_dict(self.model_wrapped)
        return state

    def compute_loss(
        self: Any,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean SID loss over the targets of the (accumulated) batch of all processes."""
        labels = inputs.pop("labels")
        hidden = last_hidden(model, inputs)
        inner = self.accelerator.unwrap_model(model)
        total, count = self.plan.sid_loss(inner, hidden, labels)
        if num_items_in_batch is None:
            loss = total / max(count, 1)
        else:
            if self.plan.mean_targets is not None:
                num_items_in_batch = self.plan.mean_targets * self.args.gradient_accumulation_steps
                if not self.args.average_tokens_across_devices:
                    num_items_in_batch /= self.accelerator.num_processes
            loss = total / num_items_in_batch
            if self.args.average_tokens_across_devices:
                loss = loss * self.accelerator.num_processes
        return (loss, {"hidden": hidden}) if return_outputs else loss

    def training_step(self: Any, model: Any, inputs: dict[str, Any], *args: Any) -> Tensor:
        """One step; recomputed layers run on packed rows as well, so the way back is inside."""
        step: Tensor
        if not self.plan.collator.packed:
            step = super().training_step(model, inputs, *args)  # type: ignore[misc]
            return step
        with packed_batches(self.accelerator.unwrap_model(model)):
            step = super().training_step(model, inputs, *args)  # type: ignore[misc]
        return step

    def get_train_dataloader(self: Any) -> Any:
        """The plan's batches of this process."""
        return self.plan.loader(self.args)

    def evaluate(self: Any, *_: Any, **__: Any) -> dict[str, float]:
        """Generate lists for the validation queries."""
        metrics = {f"eval_{name}": value for name, value in self.plan.validator(self.model).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


def trainer_arguments(config: DataConfig, options: dict[str, Any], work: Path, seed: int) -> Any:
    """Keyword arguments for TrainingArguments or SFTConfig: ours, then the user's `trainer:`."""
    validated = bool(config.validation_queries)
    ours = {
        "output_dir": str(work),
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "eval_strategy": "epoch" if validated else "no",
        "load_best_model_at_end": validated,
        "metric_for_best_model": f"eval_{PRIMARY}" if validated else None,
        "greater_is_better": True if validated else None,
        "logging_strategy": "epoch",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "ddp_find_unused_parameters": False,
        "bf16": False,
        "activation_checkpointing": False,
        "seed": seed,
    }
    chosen = dict(options)
    if "gradient_checkpointing" in chosen:  # transformers' old name would lose to our default
        chosen["activation_checkpointing"] = chosen.pop("gradient_checkpointing")
    return {**ours, **chosen}


def last_checkpoint(work: Path) -> str | None:
    """The latest complete checkpoint, or None; trainer_state.json is written last."""
    complete = [path.parent for path in work.glob("checkpoint-*/trainer_state.json")]
    return str(max(complete, key=lambda p: int(p.name.split("-")[1]))) if complete else None
