"""What the canaries of library faults share."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.generative.test_models import LLAMA, save_llm
from tests.generative.world import World, pretrain_config
from transformers import AutoModelForCausalLM, AutoTokenizer

from dasrec.generative import pretrain
from dasrec.generative.model.base_model import load_base
from dasrec.generative.model.vocabulary import add_sid_tokens, load_vocabulary

WARNINGS = [
    pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied:UserWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
]

LORA = {"r": 2, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
Note = Callable[[bool, str], None]


def said_if_gone(capsys: pytest.CaptureFixture[str]) -> Note:
    """Says which work-around may go where a library's fault is gone; a fixture."""

    def say(fault: bool, workaround: str) -> None:
        if not fault:
            with capsys.disabled():
                sys.stdout.write(f"\ncanary: the library's fault is gone; {workaround} may go\n")

    return say


def saved_bases(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Saved SID base models, tied and untied, of checkpoints llmTrue and llmFalse; a fixture."""
    root = tmp_path_factory.mktemp("bases")
    for tied in (True, False):
        llm = save_llm(root / f"llm{tied}", world, "qwen3", LLAMA, tie_word_embeddings=tied)
        config = pretrain_config(
            base={"name": str(llm)}, trainer={"num_train_epochs": 0}, validation_queries=0
        )
        pretrain(config, world.corpus, world.sids, root / str(tied))
    return {tied: root / str(tied) for tied in (True, False)}


def opened(path: Path) -> tuple[Any, Any, Any]:
    model, tokenizer = load_base(path)
    return model.eval(), tokenizer, load_vocabulary(path)


def move(model: Any) -> None:
    """As training would: every trained parameter somewhere else."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))


def fails(call: Callable[[], object], *errors: type[Exception]) -> bool:
    try:
        call()
    except errors:
        return True
    return False


def plain_llm(world: World, path: Path, **options: Any) -> tuple[Any, Any, list[int]]:
    """A model resized in memory, as most examples do it."""
    llm = save_llm(path, world, "llama", LLAMA | options, tie_word_embeddings=False)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(llm),
        AutoTokenizer.from_pretrained(llm),
    )
    vocabulary = add_sid_tokens(tokenizer, world.sids)
    return model, tokenizer, vocabulary.new_token_ids
