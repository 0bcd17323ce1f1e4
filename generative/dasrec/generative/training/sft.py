"""Stage `sft`: LoRA fine-tuning through trl, with the SID token rows trainable beside it."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import Field, model_validator
from transformers import PrinterCallback
from transformers.pytorch_utils import Conv1D
from trl import SFTConfig, SFTTrainer

from dasrec.core import (
    Corpus,
    Manifest,
    SemanticIds,
    check_free,
    load_manifest,
    recipe_digest,
    seed_everything,
    work_dir,
    write_artifact,
)
from dasrec.generative.data.config import DataConfig
from dasrec.generative.model.base_model import load_base
from dasrec.generative.model.load import ADAPTER, POINTER
from dasrec.generative.model.vocabulary import SidVocabulary, load_vocabulary
from dasrec.generative.options import check_options, field_names
from dasrec.generative.training.trainer import (
    PRIMARY,
    SET_BY_US,
    ProgressLog,
    SidTrainerMixin,
    last_checkpoint,
    plan_training,
    trainer_arguments,
)

log = logging.getLogger(__name__)


class SftConfig(DataConfig):
    """LoRA, training data and trainer options."""

    text_fraction: float = Field(0.0, ge=0, le=1)
    """Share of the item text <-> SID examples drawn per epoch; 0 trains on behaviour only."""

    lora: dict[str, Any] = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}  # noqa: RUF012
    """Handed to peft.LoraConfig as is."""

    trainer: dict[str, Any] = {}  # noqa: RUF012  pydantic copies defaults
    """Handed to trl.SFTConfig as is."""

    @model_validator(mode="after")
    def _known_options(self) -> "SftConfig":
        check_options(self.lora, field_names(LoraConfig), "peft.LoraConfig")
        check_options(self.trainer, field_names(SFTConfig), "trl.SFTConfig", SET_BY_US)
        return self


class SidSftTrainer(SidTrainerMixin, SFTTrainer):  # type: ignore[misc]  # trl is untyped here
    """trl.SFTTrainer with the SID loss."""


def add_lora(model: Any, vocabulary: SidVocabulary, options: dict[str, Any]) -> PeftModel:
    """Wrap a SID base model: LoRA matrices and the added token rows train, nothing else.

    On an untied model the rows of both the input and the output matrix must be named; a plain
    list of indices would silently train the input side only.
    """
    new = vocabulary.new_token_ids
    tied = bool(model.config.get_text_config().tie_word_embeddings)
    indices = new if tied else {_module_name(model, side): new for side in ("input", "output")}
    defaults = {
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": indices,
        "fan_in_fan_out": any(isinstance(module, Conv1D) for module in model.modules()),  # GPT-2
    }
    wrapped = get_peft_model(model, LoraConfig(**{**defaults, **options}))
    head = wrapped.get_output_embeddings()
    if not hasattr(head, "bias"):  # trl >= 1.7 reads the head's bias; peft's wrapper hides it
        head.bias = getattr(getattr(head, "original_module", None), "bias", None)
    return wrapped


def _module_name(model: Any, side: str) -> str:
    wanted = getattr(model, f"get_{side}_embeddings")()
    names = [name for name, module in model.named_modules() if module is wanted]
    return str(names[0]).split(".")[-1]


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

    Resumes from the last finished epoch if it was interrupted.

    Returns:
        The manifest of the generator artifact: `adapter/` (as peft saves it), the tokenizer, and
        base.json with the relative path of the base model.
    """
    check_free(out, replace)
    base_manifest = load_manifest(base_path, "base_model")
    sids.check_built_from(base_path, base_manifest)
    inputs = {
        "corpus": corpus.manifest,
        "semantic_ids": sids.manifest,
        "base_model": base_manifest,
    }
    prints = {name: manifest.fingerprint for name, manifest in inputs.items()}
    work = work_dir(out, recipe_digest("generator", config.as_json(), prints, seed))
    options = trainer_arguments(config, config.trainer, work, seed)
    vocabulary = load_vocabulary(base_path)
    base, tokenizer = load_base(base_path)
    seed_everything(seed, "lora")
    model = add_lora(base, vocabulary, config.lora)
    args = SFTConfig(**{"max_length": None, **options})
    batch_size = args.per_device_train_batch_size
    plan = plan_training(config, corpus, sids, vocabulary, tokenizer, model, batch_size, seed)
    trainer = SidSftTrainer(
        model=model,
        args=args,
        train_dataset=plan.dataset,
        eval_dataset=plan.dataset.select([0]),  # `evaluate` generates instead
        data_collator=plan.collator,
        processing_class=tokenizer,
        callbacks=[ProgressLog(out.name)],
    )
    trainer.plan = plan
    trainer.remove_callback(PrinterCallback)  # our log has the figures
    start = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    before = plan.validator(model) if plan.validator is not None else {}
    log.info("%s: before fine-tuning %s", out.name, before)
    trainer.train(resume_from_checkpoint=last_checkpoint(work))
    best = trainer.state.best_metric
    improved = not before or best is None or best >= before[PRIMARY]
    if not improved:
        log.warning(
            "%s: no epoch was better than the base model; the adapter is left idle", out.name
        )
        model.load_state_dict(start, strict=False)
    relative = os.path.relpath(base_path.resolve(), out.resolve())
    adapter = model.peft_config["default"]
    # An absolute path would tie the adapter to this machine and change its fingerprint, and so
    # would the order of a set, which differs between processes.
    adapter.base_model_name_or_path = relative
    if not isinstance(adapter.target_modules, str):  # a pattern stays as it is
        adapter.target_modules = sorted(adapter.target_modules)

    def payload(scratch: Path) -> None:
        model.save_pretrained(scratch / ADAPTER)
        (scratch / ADAPTER / "README.md").unlink(missing_ok=True)
        tokenizer.save_pretrained(scratch)
        vocabulary.save(scratch)
        (scratch / POINTER).write_text(json.dumps({"path": relative}))

    manifest = write_artifact(
        out,
        "generator",
        config.as_json(),
        inputs,
        payload,
        seed=seed,
        metrics={
            "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "before": before,
            "best": best,
            "improved": improved,
            "log": trainer.state.log_history,
        },
        replace=replace,
    )
    shutil.rmtree(work)
    return manifest
