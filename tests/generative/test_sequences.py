from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.generative.world import World, make_corpus, make_sids

from dasrec.core import Ragged
from dasrec.generative import SequenceBuilder, SidVocabulary, add_sid_tokens, load_vocabulary
from dasrec.generative.data.sequences import (
    sequence_dataset,
    training_windows,
)
from dasrec.generative.data.tokens import IGNORE
from dasrec.generative.model.text_tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer(world: World) -> Any:
    return train_tokenizer(280, world.corpus)


@pytest.fixture(scope="module")
def vocabulary(world: World, tokenizer: Any) -> SidVocabulary:
    return add_sid_tokens(tokenizer, world.sids)


def test_every_code_is_one_named_token(
    world: World, tokenizer: Any, vocabulary: SidVocabulary, tmp_path: Path
) -> None:
    assert len(set(vocabulary.new_token_ids)) == 3 * 4 + 2 * 3 + 8
    tokens = vocabulary.item_tokens(world.sids)
    codes = world.sids.items.codes
    assert tokenizer.convert_ids_to_tokens(tokens[7].tolist()) == [
        f"<i{level}_{code}>" for level, code in enumerate(codes[7])
    ]
    text = tokenizer.decode(tokens[7].tolist())
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == tokens[7].tolist()
    vocabulary.save(tmp_path)
    assert load_vocabulary(tmp_path) == vocabulary


def test_foreign_sids_and_a_second_set_of_tokens_are_refused(
    world: World, tokenizer: Any, vocabulary: SidVocabulary, tmp_path: Path
) -> None:
    other = make_sids(tmp_path / "sids", world.corpus, user_side=False)
    with pytest.raises(ValueError, match="vocabulary was built from semantic IDs"):
        SequenceBuilder(other, vocabulary)
    with pytest.raises(ValueError, match="already has SID tokens"):
        add_sid_tokens(tokenizer, world.sids)


def test_rendered_sequences_equal_a_loop(world: World, vocabulary: SidVocabulary) -> None:
    builder = SequenceBuilder(world.sids, vocabulary)
    rows, users = [[3, 1], [], [5]], np.array([4, 0, 9])
    items = Ragged(np.array([3, 1, 5], np.int32), np.array([0, 2, 2, 3]))
    rendered = builder.render(items, users)
    user_tokens, item_tokens = builder.user_tokens, builder.item_tokens
    assert user_tokens is not None
    for row, (history, user) in enumerate(zip(rows, users, strict=True)):
        expected = [vocabulary.control["<|user|>"], *user_tokens[user]]
        for item in history:
            expected += list(item_tokens[item])
        got = rendered.tokens[rendered.starts[row] : rendered.starts[row + 1]]
        assert got.tolist() == expected
    anonymous = builder.render(items)
    assert anonymous.tokens[0] == vocabulary.control["<|anonymous|>"]
    assert anonymous.lengths.tolist() == [1 + 6, 1, 1 + 3]


@pytest.mark.parametrize("max_history", [1, 3, 20])
def test_windows_hold_every_training_item_once(world: World, max_history: int) -> None:
    corpus = world.corpus
    users, windows, times = training_windows(corpus, max_history)
    assert times.tolist() == corpus.timestamp[corpus.train_rows].tolist()
    lengths = np.diff(windows.starts)
    assert lengths.min() >= 1
    assert lengths.max() <= max_history + 1
    held = {user: [] for user in range(corpus.num_users)}  # type: ignore[var-annotated]
    for user, first, end in zip(users, windows.starts[:-1], windows.starts[1:], strict=True):
        held[user].append(windows.values[first:end].tolist())
    for user, parts in held.items():
        rows = corpus.train_rows[corpus.user_idx[corpus.train_rows] == user]
        assert [item for part in parts for item in part] == corpus.item_idx[rows].tolist()
        assert all(len(part) == max_history + 1 for part in parts[1:])  # the recent ones are full


def test_training_rows_do_not_depend_on_valid_or_test_items(
    world: World, vocabulary: SidVocabulary, tmp_path: Path
) -> None:
    builder = SequenceBuilder(world.sids, vocabulary)
    other = make_corpus(tmp_path / "corpus", last_items=0)
    assert (other.item_idx != world.corpus.item_idx).any()
    mine = sequence_dataset(world.corpus, builder)
    theirs = sequence_dataset(other, builder)
    assert mine.to_dict() == theirs.to_dict()


def test_labels_stand_on_item_tokens_only(world: World, vocabulary: SidVocabulary) -> None:
    row = sequence_dataset(world.corpus, SequenceBuilder(world.sids, vocabulary))[0]
    assert row["labels"][:3] == [IGNORE] * 3
    assert row["labels"][3:] == row["input_ids"][3:]
