from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tests.generative.shop import Shop, make_shop, words
from tests.generative.world import pretrain_config, scratch, sft_config

from dasrec.core import Ragged, build_config, load_recommendations
from dasrec.generative import (
    RetrieveConfig,
    build_trie,
    constrained_beam_search,
    load_generator,
    pretrain,
    query_prompts,
    retrieve,
    score_items,
    sft,
)
from dasrec.generative.data import tasks as tasks_module
from dasrec.generative.data.config import DataConfig, TaskWeights
from dasrec.generative.data.examples import draw_examples
from dasrec.generative.data.requests import explain_prompts, render_intention, title_prompts
from dasrec.generative.data.sequences import training_windows
from dasrec.generative.data.tasks import training_rows
from dasrec.generative.data.terms import item_terms
from dasrec.generative.data.text_tasks import TextTasks
from dasrec.generative.data.tokens import IGNORE

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is deprecated and will be removed:FutureWarning",
    "ignore:Could not find a config file:UserWarning",
)

TASKS = tuple(TaskWeights.model_fields)
ALL = dict.fromkeys(TASKS, 0.5)
TERMS = [
    ["rose", "soap", "acme", "bath"],
    ["rose", "oil", "acme", "bath", "oils"],
    ["mint", "comb", "bolt", "hair"],
    ["steel", "comb", "bolt", "hair"],
    [],
    ["rose", "cream", "acme", "bath"],
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return make_shop(tmp_path_factory.mktemp("shop"))


def rows_of(
    shop: Shop,
    folder: Path,
    tasks: dict[str, float],
    *,
    seed: int = 0,
    max_tokens: int | None = None,
    max_text_tokens: int = 32,
    **prompt: Any,
) -> tuple[Any, dict[str, list[Dataset]]]:
    """The text tokenizer and the rows of each task."""
    builder, tokenizer = shop.builder(**prompt)
    weights = TaskWeights(**{"next_item": 0.0, **tasks})
    config = DataConfig(tasks=weights, max_text_tokens=max_text_tokens)
    found = training_rows(
        config, shop.corpus, builder, tokenizer, folder, max_tokens=max_tokens, seed=seed
    )
    rows: dict[str, list[Dataset]] = {}
    for task in found:
        assert task.lengths.tolist() == [len(row) for row in task.rows["input_ids"]]
        assert task.share == tasks[task.name]
        rows.setdefault(task.name, []).append(task.rows)
    return tokenizer, rows


def written(tokenizer: Any, rows: Dataset) -> list[str]:
    """Each row as `context -> targets`; the targets must be the end of the row."""
    texts = []
    for row in rows:
        ids, labels = row["input_ids"], row["labels"]
        known = labels.count(IGNORE)
        assert labels == [IGNORE] * known + ids[known:]
        texts.append(f"{words(tokenizer, ids[:known])} -> {words(tokenizer, ids[known:])}")
    return texts


# windows of two items leave one question each: user 0 has item 1, then 2; user 1 has 4, then 0;
# user 3 has 3, then 2; user 4 has 5, then 4, of which nothing is known; user 2 has no history
EXPECTED = {
    "item_to_text": [
        "<|item|><i0_0><i1_0><|text|> -> Rose soap<|end|>",
        "<|item|><i0_0><i1_1><|text|> -> Rose oil<|end|>",
        "<|item|><i0_1><i1_0><|text|> -> Mint comb<|end|>",
        "<|item|><i0_1><i1_1><|text|> -> Steel comb<|end|>",
        "<|item|><i0_0><i1_2><|text|> -> Rose cream<|end|>",
    ],
    "text_to_item": [
        "<|text|>Rose soap<|item|> -> <i0_0><i1_0>",
        "<|text|>Rose oil<|item|> -> <i0_0><i1_1>",
        "<|text|>Mint comb<|item|> -> <i0_1><i1_0>",
        "<|text|>Steel comb<|item|> -> <i0_1><i1_1>",
        "<|text|>Rose cream<|item|> -> <i0_0><i1_2>",
    ],
    "titles_to_item": [
        "<|history|><|text|>Rose oil<|item|> -> <i0_1><i1_0>",
        "<|history|><|text|>Steel comb<|item|> -> <i0_1><i1_0>",
        "<|history|><|text|>Rose cream<|item|> -> <i0_2><i1_0>",
    ],
    "history_to_text": [
        "<|user|><u0_0><u1_1><i0_0><i1_1><|text|> -> Mint comb<|end|>",
        "<|user|><u0_1><u1_0><i0_2><i1_0><|text|> -> Rose soap<|end|>",
        "<|user|><u0_0><u1_0><i0_1><i1_1><|text|> -> Mint comb<|end|>",
    ],
    "user_to_preferences": [
        # two items with each of the first three at weight log(7/4), one of the others at log(7/3)
        "<|preferences|><u0_0><u1_1><|text|> -> acme, bath, rose, bolt, comb, hair<|end|>",
        "<|preferences|><u0_1><u1_0><|text|> -> acme, bath, rose<|end|>",
        "<|preferences|><u0_1><u1_1><|text|> -> bolt, comb, hair<|end|>",
        "<|preferences|><u0_0><u1_0><|text|> -> bolt, comb, hair<|end|>",
        "<|preferences|><u0_2><u1_2><|text|> -> acme, bath, rose<|end|>",
    ],
    "explain": [
        "<|user|><u0_0><u1_0><i0_1><i1_1><|item|><i0_1><i1_0><|reason|> -> bolt, comb, hair<|end|>"
    ],
}  # fmt: skip


@pytest.mark.parametrize("task", list(EXPECTED))
def test_rows_and_labels_by_hand(shop: Shop, task: str, tmp_path: Path) -> None:
    tokenizer, rows = rows_of(shop, tmp_path, {task: 1.0}, max_history=1)
    assert list(rows) == [task]
    assert written(tokenizer, rows[task][0]) == EXPECTED[task]


def test_context_and_times_come_before_the_question(shop: Shop, tmp_path: Path) -> None:
    prompt: dict[str, Any] = {"max_history": 1, "time": True, "context": ("age",)}
    seed = 2  # hides no window's times
    tokenizer, rows = rows_of(shop, tmp_path, {"history_to_text": 1.0}, seed=seed, **prompt)
    assert written(tokenizer, rows["history_to_text"][0])[0] == (
        "<|user|><u0_0><u1_1><|text|>Age: 30<t_unknown><i0_0><i1_1><t_10><|text|>"
        " -> Mint comb<|end|>"
    )


def test_questions_are_drawn_from_all_places(shop: Shop) -> None:
    windows = training_windows(shop.corpus, 20)  # items: 0 1 2 | 4 0 | 3 | 2 3 2 | 5 4
    for draw, targets, histories in (
        (0.0, [1, 0, 3, 4], [[0], [4], [2], [5]]),
        (0.4999, [1, 0, 3, 4], [[0], [4], [2], [5]]),
        (0.5, [2, 0, 2, 4], [[0, 1], [4], [2, 3], [5]]),
        (0.9999, [2, 0, 2, 4], [[0, 1], [4], [2, 3], [5]]),
    ):
        asked = draw_examples(windows, np.full(5, draw))
        assert asked.users.tolist() == [0, 1, 3, 4]
        assert asked.windows.tolist() == [0, 1, 3, 4]
        assert asked.targets.tolist() == targets
        ends = zip(asked.items.starts[:-1], asked.items.starts[1:], strict=True)
        assert [asked.items.values[low:high].tolist() for low, high in ends] == histories
        for row, user in enumerate(asked.users):
            own = windows.times[windows.items.starts[user] : windows.items.starts[user + 1]]
            low, high = asked.items.starts[row : row + 2]
            assert asked.times[low:high].tolist() == own[: high - low].tolist()
            assert asked.now[row] == own[high - low]


def test_terms_are_words_and_names(shop: Shop) -> None:
    terms = item_terms(shop.corpus)
    names = terms.names.to_list()
    for item, expected in enumerate(TERMS):
        low, high = terms.of_items.starts[item : item + 2]
        assert [names[term] for term in terms.of_items.values[low:high]] == expected
    for name, weight in zip(names, terms.weight, strict=True):
        held = sum(name in own for own in TERMS)
        assert weight == pytest.approx(np.log((1 + 6) / (1 + held)) if held > 1 else 0)


def test_intentions_are_some_of_the_items_terms(shop: Shop, tmp_path: Path) -> None:
    seen: list[set[tuple[str, ...]]] = [set() for _ in TERMS]
    for seed in range(40):
        tokenizer, rows = rows_of(
            shop, tmp_path, {"intention_to_item": 1.0}, seed=seed, max_history=1
        )
        after, alone = (written(tokenizer, part) for part in rows["intention_to_item"])
        starts = [
            "<|user|><u0_0><u1_1><i0_0><i1_1><|intention|>",
            "<|user|><u0_1><u1_0><i0_2><i1_0><|intention|>",
            "<|user|><u0_0><u1_0><i0_1><i1_1><|intention|>",
            *["<|anonymous|><|intention|>"] * 5,
        ]
        for row, start, item in zip(
            [*after, *alone], starts, [2, 0, 2, 0, 1, 2, 3, 5], strict=True
        ):
            sid = "".join(
                f"<i{level}_{code}>" for level, code in enumerate(shop.sids.items.codes[item])
            )
            assert row.startswith(start)
            assert row.endswith(f"<|item|> -> {sid}")
            told = tuple(row[len(start) : row.index("<|item|>")].split())
            assert list(told) == [term for term in TERMS[item] if term in told]  # in their order
            assert 2 <= len(told) <= 5
            seen[item].add(told)
    assert all(len(told) > 5 for told, own in zip(seen, TERMS, strict=True) if own)


def test_the_oldest_titles_give_way(shop: Shop, tmp_path: Path) -> None:
    for most in (None, *range(5, 60, 3)):
        tokenizer, rows = rows_of(
            shop, tmp_path / str(most), {"titles_to_item": 1.0, "next_item": 0.5}, max_tokens=most
        )  # fmt: skip
        for row in rows.get("titles_to_item", [[]])[0]:
            assert most is None or len(row["input_ids"]) <= most
            history = words(tokenizer, row["input_ids"]).split("<|item|>")[0].split("<|text|>")[1:]
            assert history
            assert set(history) <= set(shop.corpus.items["title"]) - {""}


def brute_titles(shop: Shop, tokenizer: Any, history: list[int], room: int) -> list[int]:
    kept: list[int] = []
    used = 0
    for item in reversed(history):
        title = shop.corpus.items["title"][item]
        if not title:
            continue
        used += 1 + len(tokenizer(title, add_special_tokens=False)["input_ids"])
        if used > room:
            break
        kept.insert(0, item)
    return kept


def test_titles_that_fit_equal_a_loop(shop: Shop) -> None:
    builder, tokenizer = shop.builder()
    histories = [[0, 1, 2, 3], [4, 5], [4], [2, 4, 0, 0]]
    items = Ragged(
        np.array(list(chain(*histories)), np.int32), np.cumsum([0, *map(len, histories)])
    )
    for most in range(4, 50):
        text = TextTasks(
            shop.corpus,
            builder,
            tokenizer,
            training_windows(shop.corpus, 20),
            max_text_tokens=32,
            max_tokens=most,
            seed=0,
        )
        rows = text._title_histories(items)
        for row, history in enumerate(histories):
            kept = brute_titles(shop, tokenizer, history, most - 4)
            expected = "".join(f"<|text|>{shop.corpus.items['title'][item]}" for item in kept)
            tokens = rows.tokens[rows.starts[row] : rows.starts[row + 1]]
            assert words(tokenizer, tokens) == expected


def test_texts_are_cut(shop: Shop, tmp_path: Path) -> None:
    tokenizer, rows = rows_of(shop, tmp_path, {"item_to_text": 1.0}, max_text_tokens=1)
    whole = tokenizer("Rose soap", add_special_tokens=False)["input_ids"]
    assert rows["item_to_text"][0][0]["labels"][-2:] == [whole[0], tokenizer.eos_token_id]
    assert tokenizer.backend_tokenizer.truncation is None  # would be saved with the model


def bytes_of(shop: Shop, folder: Path) -> dict[str, bytes]:
    rows_of(shop, folder, ALL, time=True, context=("gender",))
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_no_row_of_any_task_depends_on_valid_or_test_events(shop: Shop, tmp_path: Path) -> None:
    other = make_shop(tmp_path / "shop", spoil=True)
    assert (other.corpus.item_idx != shop.corpus.item_idx).any()
    mine, theirs = bytes_of(shop, tmp_path / "a"), bytes_of(other, tmp_path / "b")
    assert len(mine) == len(TASKS) + 1  # intentions have two files
    assert mine == theirs


@pytest.mark.parametrize("part", [1, 2, 5])
def test_rows_do_not_depend_on_the_parts_they_are_written_in(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    _, whole = rows_of(shop, tmp_path / "whole", ALL, time=True)
    monkeypatch.setattr(tasks_module, "PART", part)
    _, parts = rows_of(shop, tmp_path / "parts", ALL, time=True)
    assert whole.keys() == parts.keys()
    for task in whole:
        for left, right in zip(whole[task], parts[task], strict=True):
            assert left.to_dict() == right.to_dict()


def test_rows_lie_on_disk(shop: Shop, tmp_path: Path) -> None:
    _, rows = rows_of(shop, tmp_path, {"next_item": 1.0})
    (next_item,) = rows["next_item"]
    assert [file["filename"] for file in next_item.cache_files] == [
        str(tmp_path / "next_item.arrow")
    ]
    builder, _ = shop.builder()
    windows = training_windows(shop.corpus, 20)
    expected = builder.render(windows.items, windows.users)
    assert list(chain(*next_item["input_ids"])) == expected.tokens.tolist()
    assert list(chain(*next_item["labels"])) == expected.labels.tolist()


def test_some_rows_have_no_times(shop: Shop, tmp_path: Path) -> None:
    builder, _ = shop.builder(time=True)
    windows = training_windows(shop.corpus, 20)
    forms = [
        builder.render(windows.items, windows.users, times=times) for times in (windows.times, None)
    ]
    hidden = 0
    for seed in range(20):
        _, rows = rows_of(shop, tmp_path, {"next_item": 1.0}, seed=seed, time=True)
        ids = list(chain(*rows["next_item"][0]["input_ids"]))
        for low, high in zip(forms[0].starts[:-1], forms[0].starts[1:], strict=True):
            known, unknown = (form.tokens[low:high].tolist() for form in forms)
            assert ids[low:high] in (known, unknown)
            hidden += ids[low:high] == unknown != known
    assert 2 <= hidden <= 20  # of 80 rows with gaps


def test_tasks_that_cannot_be_are_refused(shop: Shop, tmp_path: Path) -> None:
    lone = make_shop(tmp_path / "shop", user_side=False)
    with pytest.raises(ValueError, match=r"tasks.user_to_preferences: needs user SIDs"):
        rows_of(lone, tmp_path / "rows", {"user_to_preferences": 1.0})
    with pytest.raises(ValueError, match=r"tasks.user_to_preferences: needs user SIDs"):
        rows_of(shop, tmp_path / "rows", {"user_to_preferences": 1.0}, user_sid=False)
    with pytest.raises(ValueError, match="no training row for titles_to_item"):
        rows_of(shop, tmp_path / "rows", {"titles_to_item": 1.0}, max_tokens=5)
    with pytest.raises(ValueError, match="all tasks have weight 0"):
        build_config(DataConfig, {"tasks": {"next_item": 0.0}}, "pretrain")
    with pytest.raises(ValueError, match=r"tasks: unknown key 'item_2_text'"):
        build_config(DataConfig, {"tasks": {"item_2_text": 0.1}}, "pretrain")


def test_a_task_without_rows_is_told(
    shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = {"titles_to_item": 1.0, "next_item": 0.5, "intention_to_item": 0.5}
    _, rows = rows_of(shop, tmp_path, tasks, max_tokens=5)
    assert set(rows) == {"next_item", "intention_to_item"}
    assert [record.getMessage() for record in caplog.records] == [
        "tasks.titles_to_item: the corpus has no row for it; it is left out"
    ]


@pytest.fixture(scope="module")
def trained(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "base"
    options = {"n_embd": 32, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = pretrain_config(
        base=scratch("gpt2", **options),
        prompt={"time": True, "context": ["gender"]},
        tasks=dict.fromkeys(TASKS, 1.0),
        user_dropout=0.0,
        validation_queries=0,
        trainer={"learning_rate": 1e-2, "num_train_epochs": 80, "per_device_train_batch_size": 16},
    )
    pretrain(config, shop.corpus, shop.sids, out)
    return out


def test_a_model_trained_on_all_tasks_answers_requests(shop: Shop, trained: Path) -> None:
    generator = load_generator(trained, shop.sids)
    builder = generator.sequence_builder(shop.corpus, shop.sids)
    trie = build_trie(shop.corpus, shop.sids, generator.vocabulary)
    nobody = builder.prompts(Ragged(np.empty(0, np.int32), np.zeros(2, np.int64)))
    for text, item in (("Soap Acme bath", 0), ("mint comb bolt hair ", 2), ("rose acme bath", 5)):
        prompt = render_intention(builder, generator.tokenizer, nobody, [text])
        ids = torch.from_numpy(prompt.tokens)[None]
        result = constrained_beam_search(
            generator.model, ids, torch.ones_like(ids), trie, num_beams=6, num_items=6
        )
        assert sorted(result.items[0].tolist()) == list(range(6))  # real items, and all of them
        assert result.items[0, 0] == item

    titles = title_prompts(builder, np.array([1]))
    assert generated(generator, titles) == "Rose oil"
    queries = query_prompts(shop.corpus, builder, np.array([12]))  # user 3 after items 2 and 3
    reason = explain_prompts(builder, queries, np.array([2]))
    assert generated(generator, reason) == "bolt, comb, hair"


def generated(generator: Any, prompt: Any) -> str:
    ids = torch.from_numpy(prompt.tokens)[None]
    answer = generator.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=30)
    text = generator.tokenizer.decode(answer[0, ids.shape[1] :])
    return str(text).split("<|end|>")[0]


def test_an_intention_is_written_as_its_training_rows_are(shop: Shop) -> None:
    builder, tokenizer = shop.builder()
    nobody = builder.prompts(Ragged(np.empty(0, np.int32), np.zeros(2, np.int64)))
    prompt = render_intention(builder, tokenizer, nobody, [" Rose oil, ORGANIC "])
    expected = "<|anonymous|><|intention|>rose oil, organic<|item|>"
    assert words(tokenizer, prompt.tokens) == expected
    assert not prompt.targets.any()
    with pytest.raises(ValueError, match="the text is empty"):
        render_intention(builder, tokenizer, nobody, ["  "])


def test_fine_tuning_and_lists_keep_the_prompt_format(
    shop: Shop, trained: Path, tmp_path: Path
) -> None:
    config = sft_config(tasks={"next_item": 1.0, "explain": 0.5}, validation_queries=4)
    sft(config, trained, shop.corpus, shop.sids, tmp_path / "lm")
    generator = load_generator(tmp_path / "lm", shop.sids)
    assert generator.prompt == load_generator(trained, shop.sids).prompt
    assert generator.prompt.time

    retrieve_config = RetrieveConfig(num_beams=6, num_items=6)
    retrieve(retrieve_config, tmp_path / "lm", shop.corpus, shop.sids, tmp_path / "lists")
    lists = load_recommendations(tmp_path / "lists", shop.corpus)
    builder = generator.sequence_builder(shop.corpus, shop.sids)
    prompts = query_prompts(shop.corpus, builder, lists.queries)
    trie = build_trie(shop.corpus, shop.sids, generator.vocabulary)
    for row, (low, high) in enumerate(pairwise(prompts.starts)):
        assert prompts.tokens[high - 1] in generator.vocabulary.time_tokens
        ids = torch.from_numpy(prompts.tokens[low:high])[None]
        scores = score_items(generator.model, ids, torch.ones_like(ids), trie)[0].numpy()
        assert lists.item_idx[row].tolist() == np.argsort(-scores, kind="stable").tolist()
