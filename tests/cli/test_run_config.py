"""Sections of the run config that must fit each other."""

from typing import Any

import pytest

from dasrec.cli.config import RunConfig
from dasrec.core import build_config

LETTER = {"letter": {"method": "letter"}}
TWO = {"both": {"method": "tiger", "modalities": ["text", "image"]}}


def config(**sections: Any) -> RunConfig:
    prepare = {"interactions": {"path": "log.parquet"}}
    return build_config(RunConfig, {"name": "small", "prepare": prepare} | sections, "test")


def test_a_tokenizer_names_vectors_that_the_items_get() -> None:
    more = {"cf": {"encoder": "cooccurrence"}, "image": {"encoder": "images"}}
    assert set(config(tokenizers=LETTER | TWO, embed={"more": more}).tokenizers) == {
        "letter",
        "both",
    }
    with pytest.raises(ValueError, match=r"tokenizers\.letter\.cf: .* 'cf' \(text\); add embed"):
        config(tokenizers=LETTER)
    with pytest.raises(ValueError, match=r"tokenizers\.both\.modalities: .* 'image' \(text, cf\)"):
        config(tokenizers=TWO, embed={"more": {"cf": {"encoder": "cooccurrence"}}})
    renamed = {"modality": "words", "more": {"text": {"encoder": "lsa"}}}
    with pytest.raises(ValueError, match="'image'"):
        config(tokenizers=TWO, embed=renamed)
