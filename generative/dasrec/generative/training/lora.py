"""LoRA on a SID base model, with the rows of the added tokens trainable beside it."""

import json
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers.pytorch_utils import Conv1D

from dasrec.generative.export.adapter_card import adapter_readme
from dasrec.generative.model.load import ADAPTER, POINTER
from dasrec.generative.model.split_tokens import split_token_rows
from dasrec.generative.model.vocabulary import SidVocabulary


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
    if getattr(model, "is_quantized", False):  # QLoRA; checkpointing is the trainer's choice
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    wrapped = get_peft_model(model, LoraConfig(**{**defaults, **options}))
    split_token_rows(wrapped)
    head = wrapped.get_output_embeddings()
    if not hasattr(head, "bias"):  # trl >= 1.7 reads the head's bias; peft's wrapper hides it
        head.bias = getattr(getattr(head, "original_module", None), "bias", None)
    return wrapped


def save_adapter(
    wrapped: PeftModel, folder: Path, base_path: str, state_dict: dict[str, Any] | None = None
) -> None:
    """Write the adapter, where its base model lies, and how to open both without dasrec.

    An absolute path would tie the adapter to this machine and change its fingerprint, and so would
    the order of a set, which differs between processes.

    Args:
        wrapped: the model with its adapter.
        folder: gets adapter/, base.json and README.md.
        base_path: of the base model, relative to the artifact.
        state_dict: its weights, where the processes that trained it hold a part each.
    """
    adapter = wrapped.peft_config["default"]
    adapter.base_model_name_or_path = base_path
    if not isinstance(adapter.target_modules, str):  # a pattern stays as it is
        adapter.target_modules = sorted(adapter.target_modules)
    # The token rows are in the adapter; "auto" would look for the base and may add whole matrices.
    wrapped.save_pretrained(folder / ADAPTER, state_dict=state_dict, save_embedding_layers=False)
    (folder / ADAPTER / "README.md").unlink(missing_ok=True)  # says nothing but versions
    (folder / POINTER).write_text(json.dumps({"path": base_path}))
    (folder / "README.md").write_text(adapter_readme(base_path, wrapped.config.model_type))


def _module_name(model: Any, side: str) -> str:
    wanted = getattr(model, f"get_{side}_embeddings")()
    names = [name for name, module in model.named_modules() if module is wanted]
    return str(names[0]).split(".")[-1]
