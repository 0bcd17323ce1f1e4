"""What full and LoRA training share: the SID loss, the batches, validation by generation."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from dasrec.core import Corpus, SemanticIds, StageConfig, generator
from dasrec.eval.ranking_metrics import ranking_metrics
from dasrec.generative.batches import LengthGroupedBatches, SequenceCollator
from dasrec.generative.loss import SidLoss
from dasrec.generative.retrieve import (
    RetrieveConfig,
    build_trie,
    generate_lists,
    query_prompts,
    seen_items,
)
from dasrec.generative.sequences import SequenceBuilder, sequence_dataset, text_dataset
from dasrec.generative.vocabulary import SidVocabulary

log = logging.getLogger(__name__)

PRIMARY = "ndcg@10"


class DataConfig(StageConfig):
    """What the model is trained and validated on."""

    max_history: int = 20
    """Items of context at most; longer histories are cut into windows."""

    user_dropout: float = 0.3
    """Share of training sequences whose user SID is hidden."""

    text_fraction: float = 0.1
    """Share of the item text <-> SID examples drawn per epoch; 0 trains on behaviour only."""

    max_text_tokens: int = 32
    """Text tokens per item at most."""

    label_smoothing: float = 0.0
    """Label smoothing of the token losses."""

    validation_queries: int = 2000
    """Validation queries (a fixed random subset) that choose the best epoch; 0 keeps the last."""

    validation_beams: int = 20
    """Beams of the validation lists."""


class Validator:
    """Recall and NDCG of generated lists on a fixed subset of the validation queries."""

    def __init__(
        self, config: DataConfig, corpus: Corpus, sids: SemanticIds, builder: SequenceBuilder
    ) -> None:
        """Draw the queries and render their prompts once."""
        queries = corpus.queries("valid")
        rng = generator(0, "validation")  # the same subset for every seed
        chosen = np.sort(rng.permutation(queries)[: config.validation_queries])
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
    batch_size: int,
    seed: int,
) -> TrainingPlan:
    """Render the training rows of all tasks and what goes with them."""
    builder = SequenceBuilder(sids, vocabulary)
    tasks, fractions = [sequence_dataset(corpus, builder, config.max_history)], [1.0]
    if config.text_fraction > 0:
        tasks.append(text_dataset(corpus, builder, tokenizer, config.max_text_tokens))
        fractions.append(config.text_fraction)
    lengths = [_row_lengths(task) for task in tasks]
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
            self.train_dataset, batch_sampler=self.plan.batches, collate_fn=self.data_collator
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
    chosen = bool(config.validation_queries)
    ours = {
        "output_dir": str(work),
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "eval_strategy": "epoch" if chosen else "no",
        "load_best_model_at_end": chosen,
        "metric_for_best_model": f"eval_{PRIMARY}" if chosen else None,
        "greater_is_better": True if chosen else None,
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
    clash = sorted({"output_dir", "seed", "save_strategy", "eval_strategy"} & set(options))
    if clash:
        raise ValueError(f"trainer: {', '.join(clash)} are set by dasrec; remove them")
    return {**ours, **options}


def last_checkpoint(work: Path) -> str | None:
    """The latest complete checkpoint, or None; trainer_state.json is written last."""
    complete = [path.parent for path in work.glob("checkpoint-*/trainer_state.json")]
    return str(max(complete, key=lambda p: int(p.name.split("-")[1]))) if complete else None


def _row_lengths(dataset: Dataset) -> Any:
    column = dataset.data.column("input_ids").combine_chunks()
    return column.value_lengths().to_numpy()
