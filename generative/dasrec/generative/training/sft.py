"""Stage `sft`: fine-tuning through trl, with LoRA and the SID token rows beside it or in full."""

import logging
import os
from pathlib import Path
from typing import Any

from peft import LoraConfig
from pydantic import model_validator
from trl import SFTConfig, SFTTrainer

from dasrec.core import (
    Corpus,
    Manifest,
    SemanticIds,
    check_free,
    load_manifest,
    seed_everything,
)
from dasrec.generative.data.config import DataConfig
from dasrec.generative.data.prompts import load_prompt
from dasrec.generative.data.sequences import sequence_builder
from dasrec.generative.model.base_model import load_base, pin_generation
from dasrec.generative.model.vocabulary import load_vocabulary
from dasrec.generative.options import check_options, field_names
from dasrec.generative.training.artifact import training_folder, write_trained
from dasrec.generative.training.lora import add_lora, save_adapter
from dasrec.generative.training.plan import TrainingPlan, plan_training
from dasrec.generative.training.trainer import (
    SET_BY_US,
    SidTrainerMixin,
    trainer_arguments,
    written_out,
)
from dasrec.generative.training.validation import PRIMARY

log = logging.getLogger(__name__)

OF_TRLS_OWN_ROWS = (
    *("dataset_text_field", "dataset_kwargs", "dataset_num_proc", "shuffle_dataset"),
    *("max_length", "truncation_mode", "pad_to_multiple_of", "pad_token", "eos_token"),
    *("packing", "packing_strategy", "padding_free", "eval_packing", "chat_template_path"),
    *("completion_only_loss", "assistant_only_loss", "loss_type", "router_aux_loss_coef"),
    *("model_init_kwargs", "trust_remote_code"),
)
"""Options of trl.SFTConfig that would do nothing: rows, batches, loss and model are ours."""


class SftConfig(DataConfig):
    """LoRA or all weights, training data and trainer options."""

    lora: dict[str, Any] | None = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}  # noqa: RUF012
    """Handed to peft.LoraConfig as is; null fine-tunes all weights."""

    trainer: dict[str, Any] = {}  # noqa: RUF012  pydantic copies defaults
    """Handed to trl.SFTConfig as is."""

    @model_validator(mode="after")
    def _known_options(self) -> "SftConfig":
        check_options(self.lora or {}, field_names(LoraConfig), "peft.LoraConfig")
        ours = (*SET_BY_US, *OF_TRLS_OWN_ROWS)
        check_options(self.trainer, field_names(SFTConfig), "trl.SFTConfig", ours)
        return self


class SidSftTrainer(SidTrainerMixin, SFTTrainer):  # type: ignore[misc]  # trl is untyped here
    """trl.SFTTrainer with the SID loss."""


def sft(
    config: SftConfig,
    base_path: Path,
    corpus: Corpus,
    sids: SemanticIds,
    out: Path,
    *,
    seed: int = 0,
    replace: bool = False,
) -> Manifest:
    """Fine-tune the base model for next-item generation on training interactions.

    Resumes from the last checkpoint (one per epoch, or every `trainer.save_steps` steps too) if it
    was interrupted. Several processes of `accelerate launch` share each batch.

    Returns:
        The manifest of a "generator": `adapter/` (as peft saves it), the tokenizer, and base.json
        with the relative path of the base model; or, without LoRA, of a "base_model" like that of
        `pretrain`.
    """
    check_free(out, replace)
    base_manifest = load_manifest(base_path, "base_model")
    sids.check_built_from(base_path, base_manifest)
    kind = "base_model" if config.lora is None else "generator"
    inputs = {
        "corpus": corpus.manifest,
        "semantic_ids": sids.manifest,
        "base_model": base_manifest,
    }
    work = training_folder(out, kind, config.as_json(), inputs, seed)
    options = trainer_arguments(config, config.trainer, work, seed)
    vocabulary, prompt = load_vocabulary(base_path), load_prompt(base_path)
    model, tokenizer = load_base(base_path, full_precision=config.lora is None)
    builder = sequence_builder(prompt, corpus, sids, vocabulary, tokenizer)
    if config.lora is not None:
        seed_everything(seed, "lora")
        model = add_lora(model, vocabulary, config.lora)
    args = SFTConfig(**{"max_length": None, **options})
    plan = plan_training(config, corpus, sids, builder, tokenizer, model, args)
    trainer = SidSftTrainer(
        model=model,
        args=args,
        train_dataset=plan.dataset,
        eval_dataset=plan.dataset.select([0]),  # `evaluate` generates instead
        data_collator=plan.collator,
        processing_class=tokenizer,
    )
    metrics = _train(trainer, plan, config, base_path, out.name)
    weights = trainer.weights()
    relative = os.path.relpath(base_path.resolve(), out.resolve())

    def payload(scratch: Path) -> None:
        if config.lora is None:
            pin_generation(model, tokenizer)
            model.save_pretrained(scratch, state_dict=weights)
        else:
            save_adapter(model, scratch, relative, weights)
        tokenizer.save_pretrained(scratch)
        vocabulary.save(scratch)
        prompt.save(scratch)

    return write_trained(
        out, kind, config.as_json(), inputs, payload, work,
        seed=seed, metrics=metrics, replace=replace,
    )  # fmt: skip


def _train(
    trainer: SidSftTrainer, plan: TrainingPlan, config: SftConfig, base_path: Path, name: str
) -> dict[str, Any]:
    """Train; the model ends with its best epoch's weights, or as it was if none was better."""
    model = trainer.model
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    start = {n: p.detach().clone() for n, p in trained.items()} if config.lora else None
    before = plan.validator(model) if plan.validator is not None else {}
    log.info("%s: before fine-tuning  %s", name, written_out(before) or "(not validated)")
    trainer.start(plan, name, config.trainer)
    best = trainer.state.best_metric
    improved = not before or best is None or best >= before[PRIMARY]
    if not improved:
        log.warning("%s: no epoch was better than the base model, whose weights are kept", name)
        model.load_state_dict(
            start or load_base(base_path, full_precision=True)[0].state_dict(), strict=False
        )
    return {
        "trainable_parameters": sum(p.numel() for p in trained.values()),
        "before": before,
        "best": best,
        "improved": improved,
        "log": trainer.state.log_history,
    }
