from typing import Any

import numpy as np
import pytest
import torch
from tests.generative.world import World, scratch

from dasrec.core import build_config
from dasrec.generative import BaseModelConfig
from dasrec.generative.data.tokens import ragged
from dasrec.generative.explain import Relatives, relatives, shared_levels, write_texts
from dasrec.generative.model.base_model import build_base_model


def test_relatives_share_the_longest_start_of_the_semantic_id() -> None:
    rng = np.random.default_rng(0)
    recommended, history = rng.integers(0, 3, (40, 4)), rng.integers(0, 3, (15, 4))
    levels = shared_levels(recommended, history)
    for row, item in enumerate(recommended.tolist()):
        expected = []
        for past in history.tolist():
            count = 0
            while count < 4 and item[count] == past[count]:
                count += 1
            expected.append(count)
        assert levels[row].tolist() == expected
        most = max(expected)
        places = [place for place, count in enumerate(expected) if count == most and most]
        assert relatives(recommended, history)[row] == Relatives(most, places)
    assert {found.levels for found in relatives(recommended, history)} >= {2, 3}


def test_nothing_in_common_and_no_history_have_no_relatives() -> None:
    item = np.array([[1, 2]])
    assert relatives(item, np.array([[0, 2]])) == [Relatives(0, [])]
    assert relatives(item, np.empty((0, 2), np.int64)) == [Relatives(0, [])]


@pytest.fixture(scope="module")
def talker(world: World) -> tuple[Any, Any, Any]:
    config = build_config(BaseModelConfig, scratch("llama", initializer_range=0.5), "base")
    model, tokenizer, vocabulary = build_base_model(config, world.corpus, world.sids, seed=0)
    with torch.no_grad():  # it would write codes wherever it may
        model.get_input_embeddings().weight[torch.tensor(vocabulary.new_token_ids)] *= 4
    return model.eval(), tokenizer, vocabulary


def test_texts_are_the_greedy_text_tokens_of_each_prompt_alone(
    talker: tuple[Any, Any, Any],
) -> None:
    model, tokenizer, vocabulary = talker
    new = vocabulary.new_token_ids
    rows = [new[:3], new[5:6], [*new[7:9], *tokenizer("thing number")["input_ids"]]]
    found = write_texts(model, tokenizer, vocabulary, ragged(rows), max_tokens=6)
    allowed = [t for t in range(len(tokenizer)) if t not in new]
    codes_first = 0
    for row, text in zip(rows, found, strict=True):
        written: list[int] = []
        for _ in range(6):
            with torch.no_grad():
                logits = model(torch.tensor([[*row, *written]])).logits[0, -1]
            codes_first += int(logits.argmax()) in new
            written.append(allowed[int(logits[allowed].argmax())])
            if written[-1] == tokenizer.eos_token_id:
                break
        assert text == tokenizer.decode(written, skip_special_tokens=True).strip()
    assert codes_first
    assert len(set(found)) > 1


def test_a_text_ends_with_the_models_positions(world: World) -> None:
    config = build_config(BaseModelConfig, scratch("gpt2", n_positions=12), "base")
    model, tokenizer, vocabulary = build_base_model(config, world.corpus, world.sids, seed=0)
    model.eval()
    prompt = ragged([vocabulary.new_token_ids[:10]])
    longest = write_texts(model, tokenizer, vocabulary, prompt, max_tokens=6)
    assert longest == write_texts(model, tokenizer, vocabulary, prompt, max_tokens=2)
