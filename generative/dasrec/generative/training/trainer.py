"""What full and LoRA training share: the SID loss, the batches, validation by generation."""

import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from dasrec.core import Corpus, SemanticIds, generator
from dasrec.eval.ranking_metrics import ranking_metrics
from dasrec.generative.data.batches import LengthGroupedBatches, SequenceCollator
from dasrec.generative.data.config import DataConfig
from dasrec.generative.data.sequences import SequenceBuilder, sequence_dataset, text_dataset
from dasrec.generative.model.vocabulary import SidVocabulary
from dasrec.generative.retrieve import (
    RetrieveConfig,
    build_trie,
    generate_lists,
    query_prompts,
    seen_items,
)
from dasrec.generative.training.loss import SidLoss

log = logging.getLogger(__name__)

PRIMARY = "ndcg@10"

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
)
"""Trainer options that the stage needs for itself (smoothing has a field of its own)."""


class Validator:
    """Recall and NDCG of generated lists on a fixed subset of the validation queries."""

    def __init__(
        self, config: DataConfig, corpus: Corpus, sids: SemanticIds, builder: SequenceBuilder
    ) -> None:
        """Draw the queries and render their prompts once."""
        queries = corpus.queries("valid")
        rng = generator(0, "validation")  # the same subset for every seed
        chosen = np.sort(rng.permutation(queries)[: config.validation_queries])
        if not len(chosen):
            raise ValueError(
                "validation_queries: the corpus has no validation query to choose an epoch on; "
                "set it to 0 to keep the last epoch"
            )
        self.targets = corpus.item_idx[chosen]
        self.prompts = query_prompts(corpus, builder, chosen, config.max_history)
        self.excluded = seen_items(RetrieveConfig(exclude_seen="as_in_training"), corpus, chosen)
        self.trie = build_trie(corpus, sids, builder.vocabulary)
        width = min(20, corpus.num_items)
        self.retrieve = RetrieveConfig(num_beams=config.validation_beams, num_items=width)

    def __call__(self, model: Any) -> dict[str, float]:
        """Metrics of `model`, which is left in the mode it came in."""
        was_training = model.training
        model.eval()
        items, _ = generate_lists(
            model, self.trie, self.prompts, self.retrieve, excluded=self.excluded
        )
        model.train(was_training)
        found = ranking_metrics(items, self.targets, (10,))
        return {PRIMARY: found[PRIMARY], "recall@10": found["recall@10"]}


class ProgressLog(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Writes the trainer's figures to our log."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """One line per logging step or validation."""
        keep = {k: v for k, v in (logs or {}).items() if k in ("loss", "learning_rate")}
        keep |= {k.removeprefix("eval_"): v for k, v in (logs or {}).items() if "eval_" in k}
        if keep:
            shown = "  ".join(f"{key} {float(value):.4g}" for key, value in keep.items())
            log.info("%s: epoch %.2f/%d  %s", self.name, state.epoch, state.num_train_epochs, shown)


class TrainingPlan(NamedTuple):
    """What a trainer is given: the rows, how they are batched, and how the model is judged."""

    dataset: Dataset
    batches: LengthGroupedBatches
    collator: SequenceCollator
    sid_loss: SidLoss
    validator: Validator | None


def plan_training(
    config: DataConfig,
    corpus: Corpus,
    sids: SemanticIds,
    vocabulary: SidVocabulary,
    tokenizer: Any,
    model: Any,
    batch_size: int,
    seed: int,
) -> TrainingPlan:
    """Render the training rows of all tasks and what goes with them.

    Raises:
        ValueError: rows longer than the model's positions, or nothing to validate on.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("the generator trains in one process; start dasrec without torchrun")
    builder = SequenceBuilder(sids, vocabulary)
    tasks, fractions = [sequence_dataset(corpus, builder, config.max_history)], [1.0]
    if config.text_fraction > 0:
        tasks.append(text_dataset(corpus, builder, tokenizer, config.max_text_tokens))
        fractions.append(config.text_fraction)
    tasks = [task for task in tasks if len(task)] or tasks[:1]
    lengths = [_row_lengths(task) for task in tasks]
    longest = max(int(rows.max(initial=0)) for rows in lengths)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and longest > limit:
        raise ValueError(
            f"max_history, max_text_tokens: a training row has {longest} tokens, the model "
            f"{limit} positions; lower them or take a model with more"
        )
    return TrainingPlan(
        dataset=concatenate_datasets(tasks),
        batches=LengthGroupedBatches(lengths, fractions, batch_size, seed),
        collator=SequenceCollator(
            tokenizer.pad_token_id,
            vocabulary.control["<|user|>"],
            vocabulary.control["<|anonymous|>"],
            1 + len(vocabulary.user_levels),
            config.user_dropout,
        ),
        sid_loss=SidLoss(vocabulary, config.label_smoothing),
        validator=Validator(config, corpus, sids, builder) if config.validation_queries else None,
    )


class SidTrainerMixin:
    """Overrides of `transformers.Trainer` (and so of trl's SFTTrainer)."""

    plan: TrainingPlan

    def compute_loss(
        self: Any,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean SID loss over the targets of the (accumulated) batch.

        The model runs through its wrapper, so that distributed hooks fire, but makes the logits
        of one position only; the loss makes those it needs.
        """
        outputs = model(
            input_ids=inputs["input_ids"],
            output_hidden_states=True,
            logits_to_keep=1,
            use_cache=False,
        )
        total, count = self.plan.sid_loss(
            self.accelerator.unwrap_model(model), outputs.hidden_states[-1], inputs["labels"]
        )
        if num_items_in_batch is None:
            loss = total / max(count, 1)
        else:
            loss = total / num_items_in_batch
            if self.args.average_tokens_across_devices:
                loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def get_train_dataloader(self: Any) -> Any:
        """Batches of similar length, one task each."""
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=self.plan.batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

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


def _row_lengths(dataset: Dataset) -> Any:
    column = dataset.data.column("input_ids").combine_chunks()
    return column.value_lengths().to_numpy()
