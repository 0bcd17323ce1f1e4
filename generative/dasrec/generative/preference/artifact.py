"""The aligned generator on disk: opened from a start, written as `sft` writes its own."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel

from dasrec.core import Corpus, Manifest, SemanticIds, load_manifest
from dasrec.generative.model.load import POINTER, Generator, generator_manifest
from dasrec.generative.options import check_options, field_names
from dasrec.generative.preference.rewards import RewardScores
from dasrec.generative.training.artifact import write_trained
from dasrec.generative.training.lora import add_lora, save_adapter
from dasrec.generative.training.sft import SftConfig


def base_directory(start_path: Path) -> Path:
    """The base model that a start stands on: itself, or what its base.json names."""
    if not (start_path / POINTER).exists():
        return start_path
    relative = str(json.loads((start_path / POINTER).read_text())["path"])
    return (start_path / relative).resolve()


def align_inputs(
    start_path: Path, corpus: Corpus, sids: SemanticIds, reward_scores: RewardScores | None = None
) -> dict[str, Manifest]:
    """Manifests of all that an aligned generator is made from."""
    inputs = {
        "corpus": corpus.manifest,
        "semantic_ids": sids.manifest,
        "base_model": load_manifest(base_directory(start_path), "base_model"),
        "start": generator_manifest(start_path),
    }
    if reward_scores is not None:
        inputs["reward_scores"] = reward_scores.manifest
    return inputs


def open_adapter(generator: Generator, lora: dict[str, Any] | None, start_path: Path) -> Any:
    """The start's model with an adapter that trains: its own, or a new one.

    Raises:
        ValueError: `lora` is given for a start that has an adapter.
    """
    model = generator.model
    if isinstance(model, PeftModel):
        if lora is not None:
            raise ValueError(f"lora: {start_path} has an adapter to go on from; remove 'lora'")
        model.set_adapter("default")  # also makes it trainable
        adapter = model.peft_config["default"]
        adapter.inference_mode = False
        # peft looks there whenever a checkpoint is saved; the saved path is seen from the artifact
        adapter.base_model_name_or_path = str(base_directory(start_path))
        return model
    options = lora or SftConfig().lora or {}
    check_options(options, field_names(LoraConfig), "peft.LoraConfig")
    return add_lora(model, generator.vocabulary, options)


def write_generator(
    out: Path,
    config: Mapping[str, Any],
    inputs: Mapping[str, Manifest],
    model: Any,
    generator: Generator,
    base_path: Path,
    work: Path,
    *,
    seed: int,
    metrics: Mapping[str, Any],
    replace: bool,
) -> Manifest:
    """Write adapter, tokenizer, vocabulary and the pointer to the base model."""
    relative = os.path.relpath(base_path.resolve(), out.resolve())

    def payload(scratch: Path) -> None:
        save_adapter(model, scratch, relative)
        generator.tokenizer.save_pretrained(scratch)
        generator.vocabulary.save(scratch)
        generator.prompt.save(scratch)

    return write_trained(
        out, "generator", config, inputs, payload, work,
        seed=seed, metrics=metrics, replace=replace,
    )  # fmt: skip
