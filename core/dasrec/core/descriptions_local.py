"""Answers from a Hugging Face causal LM on this machine. Shape letters: B batch, T tokens."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from dasrec.core.artifacts import Manifest, file_sha256
from dasrec.core.config import StageConfig

log = logging.getLogger(__name__)


class LocalModelConfig(StageConfig):
    """A causal LM from the hub or a folder; greedy decoding."""

    name: str
    """Hub name or local path."""

    revision: str | None = None
    """Commit of the hub repository; pin it for repeatable runs."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Weights' type; auto takes that of the checkpoint."""

    device: str | None = None
    """Torch device; null takes a GPU where there is one."""

    batch_size: int = Field(default=16, ge=1)
    """Prompts per batch."""

    chat_options: dict[str, Any] = Field(default_factory=dict)
    """Handed to the chat template, e.g. enable_thinking: false."""

    def identity(self, max_new_tokens: int) -> dict[str, object]:
        """What determines an answer, apart from the prompt."""
        files = self.files()
        return {
            "model": self.name if files is None else files.fingerprint,
            "revision": self.revision,
            "dtype": self.dtype,
            "chat_options": self.chat_options,
            "max_new_tokens": max_new_tokens,
        }

    def files(self) -> Manifest | None:
        """Manifest of a model in a folder, which can change; None for one of the hub."""
        root = Path(self.name)
        if not root.is_dir():
            return None
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        digests = {path.relative_to(root).as_posix(): file_sha256(path) for path in paths}
        return Manifest(kind="raw", config={}, inputs={}, files=digests)


def local_answers(
    config: LocalModelConfig, prompts: list[str], max_new_tokens: int
) -> Iterator[tuple[str, str]]:
    """(prompt, answer), batch by batch, prompts of like length together.

    The chat template is used where the tokenizer has one, else the prompt as it stands.

    Raises:
        ValueError: the model cannot be loaded, or a prompt is longer than it can read.
    """
    import torch

    model, tokenizer = _load(config)
    longest = getattr(model.config, "max_position_embeddings", None)
    texts = {prompt: _as_input(tokenizer, prompt, config) for prompt in prompts}
    ordered = sorted(prompts, key=lambda prompt: (len(texts[prompt]), prompt))
    for start in range(0, len(ordered), config.batch_size):
        batch = ordered[start : start + config.batch_size]
        inputs = tokenizer(
            [texts[prompt] for prompt in batch],
            return_tensors="pt",
            padding=True,
            add_special_tokens=not tokenizer.chat_template,  # the template writes them itself
        ).to(model.device)
        width = inputs["input_ids"].shape[1]
        if longest is not None and width + max_new_tokens > longest:
            raise ValueError(
                f"describe.local.name: {config.name} reads {longest} tokens, but a prompt has "
                f"{width} and the answer up to {max_new_tokens}; lower describe.max_new_tokens or "
                "describe.prompts.max_characters"
            )
        with torch.inference_mode():
            tokens_BT = model.generate(**inputs, max_new_tokens=max_new_tokens)
        answers = tokenizer.batch_decode(tokens_BT[:, width:], skip_special_tokens=True)
        yield from zip(batch, (answer.strip() for answer in answers), strict=True)


def _load(config: LocalModelConfig) -> tuple[Any, Any]:
    """Model and tokenizer, set up for greedy decoding of batches padded on the left."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    dtype = config.dtype if config.dtype == "auto" else getattr(torch, config.dtype)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            config.name, revision=config.revision, padding_side="left"
        )
        model = AutoModelForCausalLM.from_pretrained(
            config.name, revision=config.revision, dtype=dtype
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"describe.local.name: cannot load {config.name!r} as a causal LM: {error}"
        ) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    ends = model.generation_config.eos_token_id
    # The checkpoint's own sampling settings would be used otherwise.
    model.generation_config = GenerationConfig(
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id if ends is None else ends,
    )
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return model.to(device).eval(), tokenizer


def _as_input(tokenizer: Any, prompt: str, config: LocalModelConfig) -> str:
    if not tokenizer.chat_template:
        return prompt
    text: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        tokenize=False,
        add_generation_prompt=True,
        **config.chat_options,
    )
    return text
