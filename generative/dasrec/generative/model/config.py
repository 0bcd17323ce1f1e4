"""Which language model a generator starts from."""

from typing import Any, Literal

from pydantic import model_validator
from transformers import AutoConfig

from dasrec.core import StageConfig
from dasrec.generative.options import check_options


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
    """The weights' type."""

    scratch: ScratchConfig | None = None
    """Build a small model instead of loading one."""

    token_init: Literal["text_mean", "codebook", "item_text"] = "text_mean"
    """How the new tokens' rows start; see `dasrec.generative.model.token_init`."""

    sid_vocabulary_only: bool = False
    """Keep no text token: the embedding has the rows of the SID and control tokens alone. For a
    model that is never trained on text."""

    quantization: Literal["8bit", "4bit"] | None = None
    """Load the saved base model quantized by bitsandbytes wherever it is opened again, to train
    and decode with an adapter (QLoRA, 2305.14314). This stage itself works on `dtype` weights."""

    @model_validator(mode="after")
    def _one_source(self) -> "BaseModelConfig":
        if (self.name is None) == (self.scratch is None):
            raise ValueError("give either 'name' (hub name or path) or 'scratch', not both or none")
        if self.scratch is not None and self.sid_vocabulary_only and self.token_init == "item_text":
            raise ValueError(
                "token_init: item_text starts from text tokens' rows, and a scratch model with "
                "sid_vocabulary_only has none; take codebook or text_mean"
            )
        return self
