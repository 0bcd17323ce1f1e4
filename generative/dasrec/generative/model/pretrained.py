"""Opening a causal LM by hub name or local path; what cannot generate is refused here."""

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dasrec.generative.model.config import BaseModelConfig


def load_pretrained(config: BaseModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the model and tokenizer of `config.name`.

    Raises:
        ValueError: nothing loadable there, an encoder-decoder, a model without a text head, a
            checkpoint that lacks weights, or a tokenizer without an end-of-text token.
    """
    where = f"generator.pretrain.base.name: '{config.name}'"
    try:
        settings = AutoConfig.from_pretrained(config.name, revision=config.revision)
        tokenizer = AutoTokenizer.from_pretrained(config.name, revision=config.revision)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{where} could not be loaded from the hub or from disk: {error}"
        ) from None
    _check_kind(settings, where)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            config.name,
            revision=config.revision,
            dtype=getattr(torch, config.dtype),
            output_loading_info=True,
        )
    except OSError as error:
        raise ValueError(
            f"{where} could not be loaded from the hub or from disk: {error}"
        ) from None
    # transformers draws missing weights at random and only logs it
    if missing := sorted(found["missing_keys"]):
        raise ValueError(
            f"{where} lacks weights of {type(model).__name__} ({missing[0]} and {len(missing) - 1} "
            "more); take a checkpoint that was saved with its language-model head"
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{where} has a tokenizer without an end-of-text token (eos_token)")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def _check_kind(settings: AutoConfig, where: str) -> None:
    if settings.is_encoder_decoder:
        raise ValueError(
            f"{where} is an encoder-decoder ({settings.model_type}); take a decoder-only model"
        )
    if type(settings) not in AutoModelForCausalLM._model_mapping:
        raise ValueError(
            f"{where} ({settings.model_type}) has no language-model head for text; take a causal LM"
        )
