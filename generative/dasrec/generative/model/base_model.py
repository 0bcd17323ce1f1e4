"""The decoder LM that SIDs are added to: from the hub, a path, or built from a small config."""

import logging
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import model_validator
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from dasrec.core import Corpus, Manifest, SemanticIds, StageConfig, seed_everything
from dasrec.core.artifacts import file_sha256
from dasrec.generative.data.sequences import catalogue_texts
from dasrec.generative.model.vocabulary import SidVocabulary, add_sid_tokens
from dasrec.generative.options import check_options

log = logging.getLogger(__name__)

END = "<|end|>"
PAD = "<|pad|>"


class ScratchConfig(StageConfig):
    """A small decoder built from a config, with a tokenizer trained on the catalogue's text."""

    architecture: Literal["gpt2", "llama", "qwen3", "gemma2", "granite"] = "gpt2"
    """Model family (a transformers `model_type`)."""

    text_vocab_size: int = 2000
    """Tokens of the byte-level BPE trained on the item texts."""

    options: dict[str, Any] = {}  # noqa: RUF012  pydantic copies defaults
    """Handed to the family's own transformers config as is (n_embd, hidden_size, ...)."""

    @model_validator(mode="after")
    def _known_options(self) -> "ScratchConfig":
        family = AutoConfig.for_model(self.architecture)
        known = {*family.to_dict(), *family.attribute_map, "tie_word_embeddings"}
        check_options(self.options, known, f"the {self.architecture} config")
        return self


class BaseModelConfig(StageConfig):
    """Which language model to start from. Exactly one of `name` and `scratch`."""

    name: str | None = None
    """Hub name or local path of any causal LM."""

    revision: str | None = None
    """Hub revision to pin."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Weights' type when loaded by name."""

    scratch: ScratchConfig | None = None
    """Build a small model instead of loading one."""

    @model_validator(mode="after")
    def _one_source(self) -> "BaseModelConfig":
        if (self.name is None) == (self.scratch is None):
            raise ValueError("give either 'name' (hub name or path) or 'scratch', not both or none")
        return self


def build_base_model(
    config: BaseModelConfig, corpus: Corpus, sids: SemanticIds, *, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, SidVocabulary]:
    """Load or build the LM, add the SID tokens, set every new row, pin the generation config.

    Saving this model once and never resizing again avoids the adapter bloat, the wrong DPO
    references and the untrained rows that resizing in memory brings with peft.

    Returns:
        The model, its tokenizer and the vocabulary of SID tokens.
    """
    if config.scratch is not None:
        tokenizer = _train_tokenizer(config.scratch, corpus)
        vocabulary = add_sid_tokens(tokenizer, sids)
        seed_everything(seed, "base_model")
        model = _scratch_model(config.scratch, tokenizer)
    else:
        model, tokenizer = _load_named(config)
        num_text_tokens = len(tokenizer)
        vocabulary = add_sid_tokens(tokenizer, sids)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        rows = max(len(tokenizer), model.get_input_embeddings().weight.shape[0])
        model.resize_token_embeddings(rows, pad_to_multiple_of=64, mean_resizing=False)
        _initialise_rows(model, vocabulary, num_text_tokens, seed)
    pin_generation(model, tokenizer)
    return model, tokenizer, vocabulary


def base_inputs(config: BaseModelConfig) -> dict[str, Manifest]:
    """A manifest of the files of a base model that is named by a local path, else nothing.

    A model at a path can change; it is an input of what is trained on it.
    """
    if config.name is None or not Path(config.name).is_dir():
        return {}
    root = Path(config.name)
    files = {p.relative_to(root).as_posix(): file_sha256(p) for p in root.rglob("*") if p.is_file()}
    return {"base_files": Manifest(kind="raw", config={}, inputs={}, files=files)}


def _load_named(config: BaseModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.name, revision=config.revision)
        model = AutoModelForCausalLM.from_pretrained(
            config.name, revision=config.revision, dtype=getattr(torch, config.dtype)
        )
    except OSError as error:
        raise ValueError(
            f"generator.pretrain.base.name: '{config.name}' could not be loaded from the hub or "
            f"from disk: {error}"
        ) from None
    return model, tokenizer


def pin_generation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Replace the base model's generation defaults (sampling, penalties) by plain beam search.

    Chat models ship do_sample, temperature and top_p, which silently turn a constrained beam
    search into sampling: the most common fault of public generative recommenders.
    """
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _train_tokenizer(config: ScratchConfig, corpus: Corpus) -> PreTrainedTokenizerFast:
    """Byte-level BPE on the item texts (catalogue content; no interactions are seen)."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.text_vocab_size,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(catalogue_texts(corpus), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, eos_token=END)


def _scratch_model(config: ScratchConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    ids = {
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    options = {"tie_word_embeddings": True, **config.options, **ids}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(config.architecture, **options))


def _initialise_rows(
    model: PreTrainedModel, vocabulary: SidVocabulary, num_text_tokens: int, seed: int
) -> None:
    """Draw every added row around the mean of the text rows.

    transformers' own mean-resizing scales the covariance by 1e-9, which makes all SID rows the
    same vector; and rows that a padded checkpoint already had would keep their old values.
    """
    generator = torch.Generator().manual_seed(seed)
    new = torch.tensor(vocabulary.new_token_ids)
    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    with torch.no_grad():
        for weight in {id(e.weight): e.weight for e in embeddings}.values():
            text = weight[:num_text_tokens].float()
            noise = torch.randn(len(new), weight.shape[1], generator=generator)
            weight[new] = (text.mean(0) + text.std(0) * noise).to(weight.dtype)


def load_base(path: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a saved SID base model and its tokenizer, from disk only."""
    model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    pin_generation(model, tokenizer)
    return model, tokenizer
