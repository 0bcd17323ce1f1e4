"""Open a trained generator: base model, adapter, tokenizer and SID vocabulary that fit together."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from dasrec.core import Corpus, Manifest, SemanticIds, load_manifest
from dasrec.generative.data.prompts import PromptConfig, load_prompt
from dasrec.generative.data.sequences import SequenceBuilder, sequence_builder
from dasrec.generative.model.base_model import load_base
from dasrec.generative.model.split_tokens import split_token_rows
from dasrec.generative.model.vocabulary import SidVocabulary, load_vocabulary

ADAPTER = "adapter"
POINTER = "base.json"


@dataclass(frozen=True)
class Generator:
    """A generator ready for decoding."""

    manifest: Manifest
    model: Any
    """Causal LM in eval mode, PEFT-wrapped if it was fine-tuned with LoRA."""
    tokenizer: Any
    vocabulary: SidVocabulary
    prompt: PromptConfig
    """How histories are written for it."""

    def sequence_builder(self, corpus: Corpus, sids: SemanticIds) -> SequenceBuilder:
        """Renders the histories of a corpus as this model was trained to read them."""
        return sequence_builder(self.prompt, corpus, sids, self.vocabulary, self.tokenizer)


def load_generator(
    path: str | Path, sids: SemanticIds, *, full_precision: bool = False
) -> Generator:
    """Open what can generate: a "generator" artifact, or a "base_model" without fine-tuning.

    The base model of a generator lies where its base.json says (a relative path).

    Args:
        path: of the artifact.
        sids: those it was trained with or a later version of them.
        full_precision: do not quantize a base model that asks for it.

    Raises:
        FileNotFoundError: the base model is not there.
        ValueError: the generator was built from other semantic IDs or another base model.
    """
    path = Path(path)
    manifest = generator_manifest(path)
    base_path = _base_of(path, manifest) if manifest.kind == "generator" else path
    sids.check_built_from(path, manifest)
    vocabulary = load_vocabulary(base_path)
    vocabulary.check(sids)
    prompt = load_prompt(base_path)
    model, tokenizer = load_base(base_path, full_precision=full_precision)
    if (path / ADAPTER).exists():
        model = PeftModel.from_pretrained(model, path / ADAPTER)
        split_token_rows(model)
    if not getattr(model, "is_quantized", False):  # a quantized one lies on its device already
        model.to("cuda" if torch.cuda.is_available() else "cpu")
    model.eval()
    return Generator(manifest, model, tokenizer, vocabulary, prompt)


def generator_manifest(path: Path, built_from: Mapping[str, Manifest] = {}) -> Manifest:
    """The manifest of what can generate, of either kind; see `dasrec.core.load_manifest`."""
    kind = "generator" if (path / POINTER).exists() else "base_model"
    return load_manifest(path, kind, built_from)


def _base_of(path: Path, manifest: Manifest) -> Path:
    base_path = (path / str(json.loads((path / POINTER).read_text())["path"])).resolve()
    base = load_manifest(base_path, "base_model")
    if manifest.inputs["base_model"] != base.fingerprint:
        raise ValueError(
            f"{path}: was built on base model {manifest.inputs['base_model']}, but {base_path} "
            f"holds {base.fingerprint}; train the adapter again on this base"
        )
    return base_path
