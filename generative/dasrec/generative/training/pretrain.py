"""Stage `pretrain`: add SID tokens to a decoder LM and train all its weights.

An adapter on random weights teaches nothing, so a model built from a config is first trained in
full on the training sequences and item texts (the continued pre-training of PLUM 2510.07784). For
a model from the hub the stage may train as well (`trainer: {num_train_epochs: 1}`) or only add and
initialise the tokens (`num_train_epochs: 0`).
"""

import logging
import shutil
from pathlib import Path
from typing import Any

from pydantic import model_validator
from transformers import PrinterCallback, Trainer, TrainingArguments

from dasrec.core import (
    Corpus,
    Manifest,
    SemanticIds,
    check_free,
    recipe_digest,
    work_dir,
    write_artifact,
)
from dasrec.generative.data.config import DataConfig
from dasrec.generative.model.base_model import base_inputs, build_base_model, pin_generation
from dasrec.generative.model.config import BaseModelConfig
from dasrec.generative.options import check_options, field_names
from dasrec.generative.training.trainer import (
    SET_BY_US,
    ProgressLog,
    SidTrainerMixin,
    last_checkpoint,
    plan_training,
    trainer_arguments,
)

log = logging.getLogger(__name__)


class PretrainConfig(DataConfig):
    """Base model, training data and trainer options."""

    base: BaseModelConfig
    """Which language model to start from."""

    trainer: dict[str, Any] = {}  # noqa: RUF012  pydantic copies defaults
    """Handed to transformers.TrainingArguments as is."""

    @model_validator(mode="after")
    def _known_options(self) -> "PretrainConfig":
        known = field_names(TrainingArguments)
        check_options(self.trainer, known, "transformers.TrainingArguments", SET_BY_US)
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

    Resumes from the last finished epoch if it was interrupted.

    Returns:
        The manifest of the base_model artifact: a plain transformers directory (model, tokenizer)
        plus vocabulary.json.
    """
    check_free(out, replace)
    inputs = {"corpus": corpus.manifest, "semantic_ids": sids.manifest}
    inputs |= base_inputs(config.base)
    prints = {name: manifest.fingerprint for name, manifest in inputs.items()}
    work = work_dir(out, recipe_digest("base_model", config.as_json(), prints, seed))
    options = trainer_arguments(config, config.trainer, work, seed)
    model, tokenizer, vocabulary = build_base_model(config.base, corpus, sids, seed=seed)
    metrics: dict[str, Any] = {"parameters": model.num_parameters()}
    if options.get("num_train_epochs", 3) > 0:
        args = TrainingArguments(**options)
        batch_size = args.per_device_train_batch_size
        plan = plan_training(config, corpus, sids, vocabulary, tokenizer, model, batch_size, seed)
        trainer = SidPretrainer(
            model=model,
            args=args,
            train_dataset=plan.dataset,
            eval_dataset=plan.dataset.select([0]),  # `evaluate` generates instead
            data_collator=plan.collator,
            callbacks=[ProgressLog(out.name)],
        )
        trainer.plan = plan
        trainer.remove_callback(PrinterCallback)  # our log has the figures
        log.info("%s: %s parameters", out.name, f"{metrics['parameters']:,}")
        trainer.train(resume_from_checkpoint=last_checkpoint(work))
        metrics |= {"best": trainer.state.best_metric, "log": trainer.state.log_history}
        pin_generation(model, tokenizer)

    def payload(scratch: Path) -> None:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        vocabulary.save(scratch)

    manifest = write_artifact(
        out,
        "base_model",
        config.as_json(),
        inputs,
        payload,
        seed=seed,
        metrics=metrics,
        replace=replace,
    )
    shutil.rmtree(work)
    return manifest
