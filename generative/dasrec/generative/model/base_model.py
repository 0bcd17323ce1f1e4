"""The decoder LM that SIDs are added to: from the hub, a path, or built from a small config."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dasrec.core import Corpus, Manifest, SemanticIds, load_manifest, seed_everything
from dasrec.core.artifacts import file_sha256
from dasrec.generative.model.check import check_decoder
from dasrec.generative.model.config import BaseModelConfig
from dasrec.generative.model.pretrained import load_pretrained
from dasrec.generative.model.quantization import loading_options, require_bitsandbytes
from dasrec.generative.model.sid_vocabulary import cut_to_sids
from dasrec.generative.model.text_tokenizer import empty_tokenizer, train_tokenizer
from dasrec.generative.model.token_init import check_token_init, level_vectors, set_new_rows
from dasrec.generative.model.vocabulary import SidVocabulary, add_sid_tokens

ROW_MULTIPLE = 64
"""The embedding is padded to a multiple of this many rows, which tensor cores want."""


def build_base_model(
    config: BaseModelConfig,
    corpus: Corpus,
    sids: SemanticIds,
    *,
    seed: int,
    has_time: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, SidVocabulary]:
    """Load or build the LM, add the SID tokens, set every new row, pin the generation config.

    `has_time` adds the tokens of a prompt format with times.

    Saving this model once and never resizing again avoids the adapter bloat, the wrong DPO
    references and the untrained rows that resizing in memory brings with peft.

    Returns:
        The model, its tokenizer and the vocabulary of SID tokens.

    Raises:
        ValueError: a model that is no decoder LM, cannot be searched, or has such tokens already;
            a token_init without what it starts from; quantization without bitsandbytes.
    """
    if config.quantization is not None:
        require_bitsandbytes(config.quantization)
    check_token_init(config.token_init, corpus, sids)
    seed_everything(seed, "base_model")
    if config.scratch is not None:
        has_text = not config.sid_vocabulary_only
        tokenizer = (
            train_tokenizer(config.scratch.text_vocab_size, corpus)
            if has_text
            else empty_tokenizer()
        )
        vocabulary = add_sid_tokens(tokenizer, sids, has_text=has_text, has_time=has_time)
        model = _scratch_model(config, tokenizer)
        num_rows = len(model.get_input_embeddings().weight)  # all are drawn alike
    else:
        model, tokenizer = load_pretrained(config)
        num_rows = len(tokenizer)
        vocabulary = add_sid_tokens(tokenizer, sids, has_time=has_time)
        rows = max(vocabulary.new_token_ids[-1] + 1, len(model.get_input_embeddings().weight))
        model.resize_token_embeddings(rows, pad_to_multiple_of=ROW_MULTIPLE, mean_resizing=False)
    levels = level_vectors(config.token_init, corpus, sids, vocabulary, tokenizer)
    set_new_rows(model, vocabulary, num_rows, levels, seed)
    if vocabulary.has_text and config.sid_vocabulary_only:
        tokenizer, vocabulary = cut_to_sids(model, tokenizer, vocabulary, sids, ROW_MULTIPLE)
    check_decoder(model, vocabulary)
    pin_generation(model, tokenizer)
    return model, tokenizer, vocabulary


def base_inputs(config: BaseModelConfig) -> dict[str, Manifest]:
    """A manifest of the files of a base model that is named by a local path, else nothing.

    A model at a path can change; it is an input of what is trained on it.
    """
    if config.name is None or not Path(config.name).is_dir():
        return {}
    root = Path(config.name)
    names = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    shown = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    files = {name.as_posix(): file_sha256(root / name) for name in shown}
    return {"base_files": Manifest(kind="raw", config={}, inputs={}, files=files)}


def pin_generation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Replace the base model's generation defaults (sampling, penalties) by plain beam search.

    Chat models ship do_sample, temperature and top_p, which silently turn a constrained beam
    search into sampling: the most common fault of public generative recommenders. Rows that no
    token has are never generated.
    """
    num_rows = model.get_input_embeddings().weight.shape[0]
    padding = list(range(max(tokenizer.get_vocab().values()) + 1, num_rows))
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=padding or None,
    )


def _scratch_model(config: BaseModelConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    assert config.scratch is not None
    ids = {
        "vocab_size": -(-len(tokenizer) // ROW_MULTIPLE) * ROW_MULTIPLE,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    options: dict[str, Any] = {"tie_word_embeddings": True, **config.scratch.options, **ids}
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model(config.scratch.architecture, **options),
        dtype=getattr(torch, config.dtype),
    )


def load_base(
    path: str | Path, *, full_precision: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a saved SID base model and its tokenizer, from disk only; quantized if it asks for it.

    Args:
        path: a base_model artifact.
        full_precision: load the weights as they were saved, even if the config asks for less.

    Raises:
        ValueError: quantization without bitsandbytes.
    """
    base = load_manifest(path, "base_model").config.get("base") or {}
    options = {} if full_precision else loading_options(base)
    model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, **options)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    pin_generation(model, tokenizer)
    return model, tokenizer
