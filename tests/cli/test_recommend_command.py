import shutil
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tests.generative.shop import make_shop
from tests.generative.world import pretrain_config, scratch

from dasrec.cli.constraints import parse_where, read_ids
from dasrec.cli.main import main
from dasrec.cli.recommend import Recommender
from dasrec.generative import pretrain
from dasrec.generative.data.sequences import training_windows
from dasrec.generative.data.text_tasks import TextTasks
from dasrec.generative.decoding.exhaustive import score_items

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning")

TASKS = {"next_item": 1.0, "intention_to_item": 1.0, "item_to_text": 1.0, "explain": 1.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory whose generator das was taught to talk, and mute was not."""
    out = tmp_path_factory.mktemp("run") / "shop"
    shop = make_shop(out)
    shutil.move(out / "sids", out / "das")
    (out / "sids").mkdir()
    shutil.move(out / "das", out / "sids" / "das")
    for name, tasks, epochs in (("das", TASKS, 60), ("das.mute", {"next_item": 1.0}, 1)):
        trainer = {
            "learning_rate": 1e-2,
            "num_train_epochs": epochs,
            "per_device_train_batch_size": 16,
        }
        config = pretrain_config(
            base=scratch("llama", hidden_size=32),
            tasks=tasks,
            validation_queries=0,
            trainer=trainer,
        )
        pretrain(config, shop.corpus, shop.sids, out / "bases" / name)
    return out


def dasrec(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_an_intention_is_read_after_the_history_and_answered_with_real_items(run: Path) -> None:
    recommender = Recommender(run, "das")
    generator = recommender.generator
    found = recommender.recommend(None, ["i3", "i2"], k=6, intention=" Rose OIL ")
    assert len({item.item_id for item in found.items}) == 6

    control, vocabulary = generator.vocabulary.control, generator.vocabulary
    tokens = [control["<|anonymous|>"]]
    for item in (3, 2):
        codes = recommender.sids.items.codes[item]
        tokens += [vocabulary.item_levels[n][code] for n, code in enumerate(codes)]
    words = generator.tokenizer("rose oil")["input_ids"]
    tokens += [control["<|intention|>"], *words, control["<|item|>"]]
    ids = torch.tensor([tokens])
    scores = score_items(generator.model, ids, torch.ones_like(ids), recommender.trie)[0]
    best = np.argsort(-scores.numpy(), kind="stable")
    assert [item.item_id for item in found.items] == [f"i{item}" for item in best]
    np.testing.assert_allclose([item.score for item in found.items], scores[best], atol=1e-4)


def taught_intentions(recommender: Recommender) -> list[tuple[str, str]]:
    """The words without a history that the model was trained on, and the item they are for."""
    corpus, builder = recommender.corpus, recommender.builder
    tokenizer, control = recommender.generator.tokenizer, builder.vocabulary.control
    windows = training_windows(corpus, builder.prompt.max_history)
    tasks = TextTasks(
        corpus, builder, tokenizer, windows, max_text_tokens=32, max_tokens=None, seed=0
    )
    found = []
    for item in range(corpus.num_items):
        tokens = tasks.intention_alone(item, item + 1).tokens.tolist()
        if tokens:
            first, end = tokens.index(control["<|intention|>"]), tokens.index(control["<|item|>"])
            found.append((tokenizer.decode(tokens[first + 1 : end]), f"i{item}"))
    return found


def test_taught_intentions_lead_to_their_items(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recommender = Recommender(run, "das")
    taught = taught_intentions(recommender)
    assert len(taught) == 5  # one item has no words
    answers = [recommender.recommend(None, [], k=1, intention=words).items for words, _ in taught]
    right = [found[0].item_id == item for found, (_, item) in zip(answers, taught, strict=True)]
    assert sum(right) >= 4  # two items may have the same words
    words, item = taught[right.index(True)]
    assert dasrec("recommend", "--run", run, "--intention", words, "-k", "1") == 0
    assert f" {item} " in capsys.readouterr().out


def test_explanations_name_the_history_and_the_model_writes(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recommender = Recommender(run, "das")
    found = recommender.recommend("u0", ["i0", "i1"], k=6, explain=True)
    assert found.explanations is not None
    codes = np.asarray(recommender.sids.items.codes)
    for item, each in zip(found.items, found.explanations, strict=True):
        own = codes[int(item.item_id[1:])]
        shared = [int(np.cumprod(own == codes[past]).sum()) for past in (0, 1)]
        assert each.relatives.levels == max(shared)
        if max(shared):
            assert each.relatives.places == [n for n, s in enumerate(shared) if s == max(shared)]
        if item.title:
            assert each.written_title == item.title  # six titles are learned by heart
    assert any(each.reason for each in found.explanations)

    assert dasrec("recommend", "--run", run, "--history", "i0,i1", "--explain") == 0
    printed = capsys.readouterr().out
    assert "same SID levels" in printed
    assert "title and reason" in printed
    arguments = ["--history", "i0", "--explain", "--method", "das.mute"]
    assert dasrec("recommend", "--run", run, *arguments) == 0
    printed = capsys.readouterr().out
    assert "same SID levels" in printed
    assert "title and reason" not in printed


def test_a_model_that_was_not_taught_reads_no_intentions(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--intention", "rose oil", "--method", "das.mute"]
    assert dasrec("recommend", "--run", run, *arguments) == 2
    assert "train it with the task intention_to_item" in capsys.readouterr().err
    assert dasrec("recommend", "--run", run) == 2
    assert "give --user USER_ID" in capsys.readouterr().err
    assert dasrec("recommend", "--run", run, "--intention", " ") == 2
    assert "the text is empty" in capsys.readouterr().err


def test_only_items_that_meet_the_conditions(run: Path, tmp_path: Path) -> None:
    """The shop: i0, i1 and i5 are of Acme, i2 and i3 of Bolt, i4 of nobody."""
    recommender = Recommender(run, "das")
    ranked = [item.item_id for item in recommender.recommend("u0", ["i0"], k=6).items]
    for options, expected in (
        ({"where": {"brand": "Acme"}}, {"i0", "i1", "i5"}),
        ({"where": {"brand": {"not": "Acme"}}}, {"i2", "i3"}),
        ({"where": {"brand": None}}, {"i4"}),
        ({"exclude": ["i1", "i4"]}, {"i0", "i2", "i3", "i5"}),
        ({"exclude": ["i1"], "exclude_seen": True}, {"i2", "i3", "i4", "i5"}),
        ({"only": ["i4", "i3", "i3"]}, {"i3", "i4"}),
        ({"only": ["i1", "i3"], "where": {"brand": "Acme"}, "exclude": ["i0"]}, {"i1"}),
        ({"only": ["i3"], "where": {"brand": "Acme"}}, set()),
    ):
        found = recommender.recommend("u0", ["i0"], k=6, explain=True, **options)
        assert [item.item_id for item in found.items] == [i for i in ranked if i in expected]
        assert found.missing == 6 - len(expected)


def test_conditions_from_the_command_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "ids.txt"
    listed.write_text("i0\n\n i2 \ni5\n")

    def shown(*arguments: object) -> set[str]:
        assert dasrec("recommend", "--run", run, "--user", "u1", "-k", "6", *arguments) == 0
        table = capsys.readouterr().out.split("Recommended")[1]
        return {f"i{n}" for n in range(6) if f" i{n} " in table}

    assert shown("--where", "brand=Bolt") == {"i2", "i3"}
    assert shown("--where", "brand=Bolt", "--where", "brand=Acme") == {"i0", "i1", "i2", "i3", "i5"}
    assert shown("--where", "categories~Bath", "--where", "brand=Acme") == {"i0", "i1", "i5"}
    assert shown("--exclude", "i0", "--exclude", "i3") == {"i1", "i2", "i4", "i5"}
    assert shown("--only", listed, "--exclude", "i2") == {"i0", "i5"}
    assert shown("--where", "brand=nobody") == set()
    for arguments, message in (
        (["--where", "colour=red"], "no column 'colour'; they have item_id (String), title"),
        (["--where", "brand"], "expected COLUMN=VALUE or COLUMN~PART, got 'brand'"),
        (["--exclude", "i9"], "item 'i9' is not in the corpus"),
        (["--only", tmp_path / "none.txt"], "does not exist"),
    ):
        assert dasrec("recommend", "--run", run, "--user", "u1", *arguments) == 2
        assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_values_take_the_type_of_their_column(tmp_path: Path) -> None:
    schema = pl.Schema(
        {
            "text": pl.String(),
            "count": pl.Int16(),
            "price": pl.Float32(),
            "stock": pl.Boolean(),
            "day": pl.Date(),
            "tags": pl.List(pl.Int64),
        }
    )
    texts = ["text=a=b~c", "text=", "count=3", "price=2.5", "stock=True", "day=2020-02-01"]
    assert parse_where([*texts, "tags=4", "tags=5", "other=x"], schema) == {
        "text": ["a=b~c", ""],
        "count": [3],
        "price": [2.5],
        "stock": [True],
        "day": [date(2020, 2, 1)],
        "tags": [4, 5],
        "other": ["x"],
    }
    assert parse_where(["text~=b"], schema) == {"text": {"contains": "=b"}}
    for wrong in (["count=3.5"], ["stock=yes"], ["day=today"], ["tags=a"]):
        with pytest.raises(ValueError, match="has no value"):
            parse_where(wrong, schema)
    with pytest.raises(ValueError, match="one ~PART"):
        parse_where(["text=a", "text~b"], schema)
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ValueError, match="has no item ids"):
        read_ids(tmp_path / "empty")
