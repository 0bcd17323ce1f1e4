"""Stage `pretrain`: add SID tokens to a decoder LM and train all its weights.

An adapter on random weights teaches nothing, so a model built from a config is first trained in
full on the training sequences and item texts (the continued pre-training of PLUM 2510.07784). For
a model from the hub the stage may train as well (`trainer: {num_train_epochs: 1}`) or only add and
initialise the tokens (`num_train_epochs: 0`).
"""

import logging
from pathlib import Path
from typing import Any

from pydantic import model_validator
from transformers import Trainer, TrainingArguments

from dasrec.core import Corpus, Manifest, SemanticIds, check_free
from dasrec.generative.data.config import DataConfig, TaskWeights
from dasrec.generative.data.prompts import PromptConfig
from dasrec.generative.data.sequences import sequence_builder
from dasrec.generative.model.base_model import base_inputs, build_base_model, pin_generation
from dasrec.generative.model.config import BaseModelConfig
from dasrec.generative.options import check_options, field_names
from dasrec.generative.training.artifact import training_folder, write_trained
from dasrec.generative.training.plan import plan_training
from dasrec.generative.training.trainer import SET_BY_US, SidTrainerMixin, trainer_arguments

log = logging.getLogger(__name__)


class PretrainConfig(DataConfig):
    """Base model, training data and trainer options."""

    base: BaseModelConfig
    """Which language model to start from."""

    prompt: PromptConfig = PromptConfig()
    """How a history is written, here and in all that goes on from this model."""

    tasks: TaskWeights = TaskWeights(item_to_text=0.1, text_to_item=0.1)
    """What is trained, and how often."""

    trainer: dict[str, Any] = {}  # noqa: RUF012  pydantic copies defaults
    """Handed to transformers.TrainingArguments as is."""

    @model_validator(mode="after")
    def _known_options(self) -> "PretrainConfig":
        known = field_names(TrainingArguments)
        check_options(self.trainer, known, "transformers.TrainingArguments", SET_BY_US)
        if self.base.sid_vocabulary_only and self.tasks.reads_text:
            raise ValueError(
                "base.sid_vocabulary_only: a model without text tokens cannot train the text tasks "
                "of 'tasks'; set tasks: {next_item: 1.0}"
            )
        return self


class SidPretrainer(SidTrainerMixin, Trainer):  # type: ignore[misc]  # transformers is untyped here
    """transformers.Trainer with the SID loss."""


def pretrain(
    config: PretrainConfig,
    corpus: Corpus,
    sids: SemanticIds,
    out: Path,
    *,
    seed: int = 0,
    replace: bool = False,
) -> Manifest:
    """Build the base model with SID tokens and train it in full on training interactions.

    Resumes from the last checkpoint (one per epoch, or every `trainer.save_steps` steps too) if it
    was interrupted. Several processes of `accelerate launch` share each batch.

    Returns:
        The manifest of the base_model artifact: a plain transformers directory (model, tokenizer)
        plus vocabulary.json.
    """
    check_free(out, replace)
    inputs = {"corpus": corpus.manifest, "semantic_ids": sids.manifest}
    inputs |= base_inputs(config.base)
    work = training_folder(out, "base_model", config.as_json(), inputs, seed)
    options = trainer_arguments(config, config.trainer, work, seed)
    model, tokenizer, vocabulary = build_base_model(
        config.base, corpus, sids, seed=seed, has_time=config.prompt.time
    )
    builder = sequence_builder(config.prompt, corpus, sids, vocabulary, tokenizer)
    metrics: dict[str, Any] = {"parameters": model.num_parameters()}
    weights = None
    if options.get("num_train_epochs", 3) > 0:
        args = TrainingArguments(**options)
        plan = plan_training(config, corpus, sids, builder, tokenizer, model, args)
        trainer = SidPretrainer(
            model=model,
            args=args,
            train_dataset=plan.dataset,
            eval_dataset=plan.dataset.select([0]),  # `evaluate` generates instead
            data_collator=plan.collator,
        )
        log.info("%s: %s parameters", out.name, f"{metrics['parameters']:,}")
        trainer.start(plan, out.name, config.trainer)
        metrics |= {"best": trainer.state.best_metric, "log": trainer.state.log_history}
        weights = trainer.weights()
        pin_generation(model, tokenizer)

    def payload(scratch: Path) -> None:
        model.save_pretrained(scratch, state_dict=weights)
        tokenizer.save_pretrained(scratch)
        vocabulary.save(scratch)
        config.prompt.save(scratch)

    return write_trained(
        out, "base_model", config.as_json(), inputs, payload, work,
        seed=seed, metrics=metrics, replace=replace,
    )  # fmt: skip
