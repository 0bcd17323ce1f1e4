from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.generative.world import World, make_corpus, make_sids

from dasrec.core import Ragged
from dasrec.generative import SequenceBuilder, SidVocabulary, add_sid_tokens, load_vocabulary
from dasrec.generative.data.batches import LengthGroupedBatches, SequenceCollator
from dasrec.generative.data.sequences import (
    IGNORE,
    sequence_dataset,
    text_dataset,
    training_windows,
)
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
    assert len(set(vocabulary.new_token_ids)) == 3 * 4 + 2 * 3 + 4
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
    users, windows = training_windows(corpus, max_history)
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
    mine = sequence_dataset(world.corpus, builder, 20)
    theirs = sequence_dataset(other, builder, 20)
    assert mine.to_dict() == theirs.to_dict()


def test_labels_stand_on_item_tokens_only(world: World, vocabulary: SidVocabulary) -> None:
    row = sequence_dataset(world.corpus, SequenceBuilder(world.sids, vocabulary), 20)[0]
    assert row["labels"][:3] == [IGNORE] * 3
    assert row["labels"][3:] == row["input_ids"][3:]


def test_text_rows_ask_both_ways(world: World, tokenizer: Any, vocabulary: SidVocabulary) -> None:
    builder = SequenceBuilder(world.sids, vocabulary)
    rows = text_dataset(world.corpus, builder, tokenizer, max_text_tokens=5)
    assert len(rows) == 2 * world.corpus.num_items
    item, text = vocabulary.control["<|item|>"], vocabulary.control["<|text|>"]
    words = tokenizer("thing number 6", add_special_tokens=False)["input_ids"][:5]
    sid = builder.item_tokens[6].tolist()
    end = tokenizer.eos_token_id
    assert rows[12]["input_ids"] == [item, *sid, text, *words, end]
    assert rows[12]["labels"] == [IGNORE] * 5 + [*words, end]
    assert rows[13]["input_ids"] == [text, *words, item, *sid]
    assert rows[13]["labels"] == [IGNORE] * (2 + len(words)) + sid


def test_batches_cover_all_rows_and_repeat_by_epoch() -> None:
    lengths = [np.arange(1, 51), np.full(20, 3)]
    batches = LengthGroupedBatches(lengths, [1.0, 0.5], batch_size=8, seed=3)
    first = list(batches)
    assert len(first) == len(batches) == 7 + 2
    assert sorted(row for batch in first for row in batch if row < 50) == list(range(50))
    assert sum(row >= 50 for batch in first for row in batch) == 10
    assert all(len({row >= 50 for row in batch}) == 1 for batch in first)  # one task each
    batches.set_epoch(1)
    assert list(batches) != first
    batches.set_epoch(0)
    assert list(batches) == first


def test_the_collator_pads_right_and_hides_users() -> None:
    rows = [{"input_ids": [9, 4, 5, 1, 2], "labels": [IGNORE, IGNORE, IGNORE, 1, 2]}]
    rows.append({"input_ids": [7, 3], "labels": [IGNORE, 3]})  # not a user's sequence
    keep = SequenceCollator(0, user_token=9, anonymous_token=8, prefix=3, dropout=0.0)(rows)
    assert keep["input_ids"].tolist() == [[9, 4, 5, 1, 2], [7, 3, 0, 0, 0]]
    assert keep["labels"][1].tolist() == [IGNORE, 3, IGNORE, IGNORE, IGNORE]
    hide = SequenceCollator(0, user_token=9, anonymous_token=8, prefix=3, dropout=1.0)(rows)
    assert hide["input_ids"].tolist() == [[8, 1, 2], [7, 3, 0]]
    assert hide["labels"].tolist() == [[IGNORE, 1, 2], [IGNORE, 3, IGNORE]]
