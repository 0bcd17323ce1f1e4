import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.generative.shop import DAY, HOUR, MINUTE, Shop, make_shop, words

from dasrec.core import Ragged, build_config
from dasrec.generative import SequenceBuilder, add_sid_tokens, load_vocabulary, query_prompts
from dasrec.generative.data.prompts import (
    TIME_BUCKETS,
    UNKNOWN_TIME,
    PromptConfig,
    load_prompt,
    time_buckets,
)
from dasrec.generative.data.sequences import (
    hide_times,
    sequence_builder,
    sequence_dataset,
    training_windows,
)
from dasrec.generative.data.tokens import join, marked, ragged
from dasrec.generative.model.text_tokenizer import empty_tokenizer


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return make_shop(tmp_path_factory.mktemp("shop"))


def written(tokenizer: Any, rows: Any) -> list[str]:
    return [
        words(tokenizer, rows.tokens[low:high])
        for low, high in zip(rows.starts[:-1], rows.starts[1:], strict=True)
    ]


def test_a_gap_is_told_in_powers_of_two_of_minutes() -> None:
    gaps = [0, 59, 60, 179, 180, 419, 420, HOUR, DAY, 2_000 * DAY, 10**12, -5]
    minutes = [max(gap, 0) // 60 for gap in gaps]
    expected = [min(int(np.floor(np.log2(1 + m))), TIME_BUCKETS - 1) for m in minutes]
    assert time_buckets(np.array(gaps)).tolist() == expected
    assert expected[:8] == [0, 0, 1, 1, 2, 2, 3, 5]


def test_the_format_is_saved_and_checked(tmp_path: Path) -> None:
    config = PromptConfig(max_history=7, user_sid=False, time=True, context=("age",))
    config.save(tmp_path)
    assert load_prompt(tmp_path) == config
    (tmp_path / "prompt.json").write_text(json.dumps({"max_histroy": 3}))
    with pytest.raises(ValueError, match=r"prompt.json: unknown key 'max_histroy'"):
        load_prompt(tmp_path)
    with pytest.raises(ValueError, match=r"has no prompt.json.*run pretrain again"):
        load_prompt(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"prompt.context: a column is named twice"):
        build_config(PromptConfig, {"context": ["age", "age"]}, "prompt")


def test_all_parts_of_a_prompt_by_hand(shop: Shop) -> None:
    builder, tokenizer = shop.builder(time=True, context=("gender", "age"))
    queries = np.array([3, 4, 7, 9])  # users 0, 0, 1, 2
    prompts = written(tokenizer, query_prompts(shop.corpus, builder, queries))
    user0 = "<|user|><u0_0><u1_1><|text|>Gender: F. Age: 30"
    first = "<t_unknown><i0_0><i1_0><t_2><i0_0><i1_1><t_10><i0_1><i1_0><t_5>"
    assert prompts[0] == user0 + first
    # after eight days less an hour: 11460 minutes, bucket 13
    assert prompts[1] == user0 + first + "<i0_1><i1_1><t_13>"
    user1 = "<|user|><u0_1><u1_0><|text|>Gender: M. Age: 41"
    assert prompts[2] == user1 + "<t_unknown><i0_2><i1_0><t_0><i0_0><i1_0><t_11>"
    assert prompts[3] == "<|user|><u0_1><u1_1><t_unknown><i0_1><i1_1><t_5>"  # nothing to tell


def test_each_part_can_be_left_out(shop: Shop) -> None:
    queries, user, last = np.array([4]), "<|user|><u0_0><u1_1>", "<i0_1><i1_1>"
    cases: list[tuple[dict[str, Any], bool, str]] = [
        ({}, True, user + "<i0_0><i1_0><i0_0><i1_1><i0_1><i1_0>" + last),
        ({"max_history": 2}, True, user + "<i0_1><i1_0>" + last),
        ({"max_history": 1, "user_sid": False}, True, "<|anonymous|>" + last),
        ({"max_history": 1}, False, "<|anonymous|>" + last),
        ({"max_history": 1, "context": ("age",)}, False, "<|anonymous|><|text|>Age: 30" + last),
        ({"max_history": 1, "time": True}, True, user + "<t_unknown>" + last + "<t_13>"),
    ]  # fmt: skip
    for prompt, use_user_sid, expected in cases:
        builder, tokenizer = shop.builder(**prompt)
        rows = query_prompts(shop.corpus, builder, queries, use_user_sid=use_user_sid)
        assert written(tokenizer, rows) == [expected]


def test_a_prompt_continues_as_its_training_sequence(shop: Shop) -> None:
    """A training sequence up to an item's codes is the prompt that asks for the item."""
    builder, _ = shop.builder(time=True, context=("gender",))
    windows = training_windows(shop.corpus, 20)
    rows = builder.render(windows.items, windows.users, times=windows.times)
    queries = np.array([1, 2, 6, 11, 12])  # training events with a history
    prompts = query_prompts(shop.corpus, builder, queries)
    for query, low, high in zip(queries, prompts.starts[:-1], prompts.starts[1:], strict=True):
        user = shop.corpus.user_idx[query]
        row = rows.tokens[rows.starts[user] : rows.starts[user + 1]]
        prompt = prompts.tokens[low:high]
        assert row[: len(prompt)].tolist() == prompt.tolist()
        target = builder.item_tokens[shop.corpus.item_idx[query]]
        assert row[len(prompt) : len(prompt) + 2].tolist() == target.tolist()


def test_a_prompt_reads_nothing_after_its_request(shop: Shop, tmp_path: Path) -> None:
    other = make_shop(tmp_path, spoil=True)
    builder, _ = shop.builder(time=True, context=("gender", "age"))
    of_other, _ = other.builder(time=True, context=("gender", "age"))
    queries = np.array([2, 6, 12])  # what comes after them differs
    mine = query_prompts(shop.corpus, builder, queries)
    theirs = query_prompts(other.corpus, of_other, queries)
    assert mine.tokens.tolist() == theirs.tokens.tolist()


def test_requests_without_times_or_users(shop: Shop) -> None:
    builder, tokenizer = shop.builder(time=True, context=("gender",))
    items = Ragged(np.array([0, 1], np.int32), np.array([0, 2, 2]))
    unknown = "<t_unknown><i0_0><i1_0><t_unknown><i0_0><i1_1><t_unknown>"
    expected = ["<|anonymous|>" + unknown, "<|anonymous|><t_unknown>"]
    assert written(tokenizer, builder.prompts(items)) == expected
    times, now = np.array([0, DAY]), np.array([DAY + MINUTE, 5])
    known = written(tokenizer, builder.prompts(items, times=times, now=now))
    assert known[0].endswith("<t_10><i0_0><i1_1><t_1>")
    assert known[1] == "<|anonymous|><t_unknown>"
    assert not builder.prompts(items).targets.any()


def test_times_are_hidden_in_whole_windows_now_and_then(shop: Shop) -> None:
    windows = training_windows(shop.corpus, 1)
    share = []
    for seed in range(200):
        hidden = hide_times(windows, seed).times == UNKNOWN_TIME
        of_windows = np.add.reduceat(hidden, windows.items.starts[:-1])
        assert np.isin(of_windows / np.diff(windows.items.starts), (0, 1)).all()
        share.append(hidden.mean())
    assert 0.05 < np.mean(share) < 0.15


def test_labels_leave_out_the_user_the_words_and_the_times(shop: Shop) -> None:
    builder, _ = shop.builder(time=True, context=("gender", "age"))
    codes = {token for level in builder.vocabulary.item_levels for token in level}
    for row in sequence_dataset(shop.corpus, builder):
        for token, label in zip(row["input_ids"], row["labels"], strict=True):
            assert label == (token if token in codes else -100)


def test_parts_that_do_not_fit_are_refused(shop: Shop) -> None:
    builder, _ = shop.builder()
    with pytest.raises(ValueError, match="has time tokens, but the vocabulary has none"):
        SequenceBuilder(shop.sids, builder.vocabulary, PromptConfig(time=True))
    with pytest.raises(ValueError, match="use sequence_builder"):
        SequenceBuilder(shop.sids, builder.vocabulary, PromptConfig(context=("age",)))
    with pytest.raises(ValueError, match=r"prompt.context: no column 'height' in users.parquet"):
        shop.builder(context=("height",))
    mute = empty_tokenizer()
    vocabulary = add_sid_tokens(mute, shop.sids, has_text=False)
    with pytest.raises(ValueError, match="no text tokens"):
        sequence_builder(PromptConfig(context=("age",)), shop.corpus, shop.sids, vocabulary, mute)


def test_time_tokens_are_part_of_the_vocabulary(shop: Shop, tmp_path: Path) -> None:
    builder, tokenizer = shop.builder(time=True)
    vocabulary = builder.vocabulary
    names = tokenizer.convert_ids_to_tokens(list(vocabulary.time_tokens))
    assert names == [*(f"<t_{bucket}>" for bucket in range(TIME_BUCKETS)), "<t_unknown>"]
    assert set(vocabulary.time_tokens) <= set(vocabulary.new_token_ids)
    vocabulary.save(tmp_path)
    assert load_vocabulary(tmp_path) == vocabulary


rows_of_tokens = st.lists(st.lists(st.integers(0, 99), max_size=4), min_size=3, max_size=3)


@given(rows_of_tokens, rows_of_tokens, st.lists(st.integers(0, 2), max_size=5))
def test_pieces_equal_lists(
    left: list[list[int]], right: list[list[int]], taken: list[int]
) -> None:
    def lists(rows: Any) -> list[list[int]]:
        ends = zip(rows.starts[:-1], rows.starts[1:], strict=True)
        return [rows.tokens[low:high].tolist() for low, high in ends]

    both = join(ragged(left), ragged(right).as_targets())
    assert lists(both) == [a + b for a, b in zip(left, right, strict=True)]
    expected = [[False] * len(a) + [True] * len(b) for a, b in zip(left, right, strict=True)]
    assert both.targets.tolist() == [flag for row in expected for flag in row]
    assert lists(both.take(np.array(taken, np.int64))) == [left[i] + right[i] for i in taken]
    assert lists(ragged(left).merge(np.array([0, 2, 3]))) == [left[0] + left[1], left[2]]
    assert lists(marked(-1, ragged(left))) == [[-1, *row] if row else [] for row in left]
