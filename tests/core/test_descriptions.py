"""Stage `describe`: prompts, a fake endpoint, a tiny local model, the cache, and `embed` on it."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.core.fake_endpoint import Answer, echo, reply, serving
from tests.core.small_corpus import NUM_ITEMS, NUM_USERS, config, make_corpus

from dasrec.core import Corpus, build_config
from dasrec.core.descriptions import load_descriptions
from dasrec.core.descriptions_prompts import ITEM_PROMPT, USER_PROMPT, PromptConfig, user_prompts
from dasrec.core.descriptions_stage import DescribeConfig, describe
from dasrec.core.embed import embed
from dasrec.core.texts import item_texts, user_texts


def endpoint(url: str, **more: Any) -> DescribeConfig:
    section = {"base_url": url, "model": "some-llm", "backoff_seconds": 0.001, **more}
    return build_config(DescribeConfig, {"endpoint": section}, "test: describe")


def test_every_item_and_user_is_described_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    corpus = make_corpus(tmp_path / "corpus")
    with serving(echo) as server:
        chosen = endpoint(
            server.url, api_key_env="SOME_KEY", options={"top_p": 1, "temperature": None}
        )
        made = describe(chosen, corpus, tmp_path / "d")
    facts = item_texts(corpus).to_list()
    assert made.items["item_id"].to_list() == corpus.items["item_id"].to_list()
    assert made.items["text"].to_list() == [f"About {fact}" for fact in facts]
    of_users = [f"About {fact}" if fact else "" for fact in user_texts(corpus)]
    assert made.users["text"].to_list() == of_users
    assert sorted(server.prompts) == sorted(set(server.prompts))
    assert ITEM_PROMPT.replace("{item}", facts[3]) in server.prompts
    assert USER_PROMPT.replace("{user}", user_texts(corpus)[11]) in server.prompts
    for body, headers in zip(server.bodies, server.headers, strict=True):
        assert headers["path"] == "/v1/chat/completions"
        assert headers["Authorization"] == "Bearer secret"
        assert {**body, "messages": 0} == {
            "model": "some-llm",
            "messages": 0,
            "max_tokens": 160,
            "top_p": 1,
        }
    assert load_descriptions(tmp_path / "d", corpus).items.equals(made.items)
    stored = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".parquet"]
    assert not any(b"secret" in path.read_bytes() for path in stored)


def test_a_busy_server_is_asked_again(tmp_path: Path) -> None:
    statuses: dict[str, list[int]] = {}

    def sometimes_busy(_: int, body: dict[str, Any]) -> Answer:
        seen = statuses.setdefault(body["messages"][0]["content"], [])
        seen.append([429, 503, 200][len(seen)])
        if seen[-1] == 200:
            return echo(0, body)
        return seen[-1], "slow down", {"Retry-After": "0"}

    corpus = make_corpus(tmp_path / "corpus")
    with serving(sometimes_busy) as server:
        made = describe(endpoint(server.url), corpus, tmp_path / "d")
    assert all(seen == [429, 503, 200] for seen in statuses.values())
    assert made.items["text"].to_list() == [f"About {fact}" for fact in item_texts(corpus)]


def test_an_interrupted_stage_goes_on_and_pays_once(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")

    def breaks(number: int, body: dict[str, Any]) -> Answer:
        return (400, "out of credit", {}) if number >= 9 else echo(number, body)

    out = tmp_path / "d"
    with serving(breaks) as server:
        broken = endpoint(server.url, concurrency=2)
        with pytest.raises(ValueError, match=r"400 Bad Request: out of credit .*run the stage"):
            describe(broken, corpus, out)
        answered = set(server.prompts[:9])
    assert not out.exists()
    cache = tmp_path / "d_cache.jsonl"
    assert len(cache.read_text().splitlines()) == 9
    with cache.open("a") as file:
        file.write('["0123", "the line that a crash cut sho')
    with serving(echo) as server:
        # another port and speed: neither matters to an answer
        made = describe(endpoint(server.url, concurrency=3), corpus, out)
        assert not answered & set(server.prompts)
        first = len(server.prompts)
        assert made.manifest.metrics["asked"] == first
        assert made.manifest.metrics["prompts"] == first + 9
        again = describe(endpoint(server.url), corpus, tmp_path / "e")  # its own cache
        assert len(server.prompts) == 2 * first + 9
        once_more = describe(endpoint(server.url), corpus, out, replace=True)
        assert len(server.prompts) == 2 * first + 9
    assert made.manifest.files == again.manifest.files == once_more.manifest.files


@pytest.mark.parametrize("change", [{"model": "other"}, {"revision": "2"}, {"options": {"n": 1}}])
def test_another_model_or_option_is_asked_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    with serving(echo) as server:
        describe(endpoint(server.url), corpus, tmp_path / "d")
        first = len(server.prompts)
        describe(endpoint(server.url, **change), corpus, tmp_path / "d", replace=True)
        assert len(server.prompts) == 2 * first


def test_users_are_described_from_training_interactions_only(tmp_path: Path) -> None:
    def other_targets(data: dict[str, Any]) -> None:
        later = data["split"] > 0
        data["item_idx"] = np.where(later, (data["item_idx"] + 7) % NUM_ITEMS, data["item_idx"])

    def other_training(data: dict[str, Any]) -> None:
        data["item_idx"] = (data["item_idx"] + 7 * (data["split"] == 0)) % NUM_ITEMS

    found = []
    for name, change in (("a", None), ("b", other_targets), ("c", other_training)):
        corpus = make_corpus(tmp_path / name, change)
        found.append(user_prompts(PromptConfig(), corpus))
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_nothing_known_is_not_asked_about(tmp_path: Path) -> None:
    def no_profiles(data: dict[str, Any]) -> None:
        data["users"] = data["users"].select("user_id")

    corpus = make_corpus(tmp_path / "corpus", no_profiles)
    with serving(echo) as server:
        made = describe(endpoint(server.url), corpus, tmp_path / "d")
        prompts = len(server.prompts)
    texts = made.users["text"].to_list()
    assert [not text for text in texts] == [user % 4 == 0 for user in range(NUM_USERS)]
    known = [text for text in user_texts(corpus) if text]
    assert prompts == len(set(item_texts(corpus))) + len(set(known))


def save_tiny_model(path: Path, chat: bool) -> tuple[Any, Any]:
    """A random GPT-2 over characters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = {chr(c): i for i, c in enumerate(range(32, 127))}
    words |= {"\n": 95, "<end>": 96, "<user>": 97, "<bot>": 98}
    backend = Tokenizer(models.WordLevel(words, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<end>",
        additional_special_tokens=["<user>", "<bot>"],
    )
    if chat:
        tokenizer.chat_template = (
            "{% for m in messages %}<user>{{ m.content }}{% endfor %}{{ mood }}"
            "{% if add_generation_prompt %}<bot>{% endif %}"
        )
    settings = GPT2Config(
        vocab_size=len(words),
        n_positions=256,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=96,
        eos_token_id=96,
    )
    model = GPT2LMHeadModel(settings).eval()
    for parameter in model.parameters():
        parameter.data *= 8  # far from ties, and different answers to different prompts
    # what many checkpoints bring; greedy decoding must not take it over
    model.generation_config.do_sample = True
    model.generation_config.temperature = 5.0
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return model, tokenizer


@pytest.mark.parametrize("chat", [True, False])
def test_a_local_model_answers_greedily(tmp_path: Path, chat: bool) -> None:
    import torch

    model, tokenizer = save_tiny_model(tmp_path / "llm", chat)
    corpus = make_corpus(tmp_path / "corpus")
    section = {"name": str(tmp_path / "llm"), "batch_size": 5, "device": "cpu"}
    chosen = build_config(
        DescribeConfig,
        {
            "local": {**section, "chat_options": {"mood": "!"}},
            "prompts": {"item": "Item: {item}", "user": "User: {user}"},
            "max_new_tokens": 6,
        },
        "test: describe",
    )
    made = describe(chosen, corpus, tmp_path / "d")
    assert set(made.manifest.inputs) == {"corpus", "model_files"}
    for fact, text in zip(item_texts(corpus), made.items["text"], strict=True):
        prompt = f"<user>Item: {fact}!<bot>" if chat else f"Item: {fact}"
        tokens = tokenizer(prompt, return_tensors="pt")["input_ids"]
        width = tokens.shape[1]
        while tokens.shape[1] < width + 6 and tokens[0, -1] != 96:
            with torch.no_grad():
                best = model(tokens).logits[0, -1].argmax()
            tokens = torch.cat([tokens, best.view(1, 1)], dim=1)
        want = tokenizer.decode(tokens[0, width:], skip_special_tokens=True).strip()
        assert text == want
    assert made.items["text"].n_unique() > 1
    # another batch size goes by the cache; other weights do not
    model.transformer.wte.weight.data.neg_()
    model.save_pretrained(tmp_path / "llm")
    other = describe(chosen, corpus, tmp_path / "d", replace=True)
    assert other.manifest.metrics["asked"] == made.manifest.metrics["asked"]


def test_embed_reads_the_descriptions(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    words = ["sofa", "table", "shelf", "stool", "bench"]

    def words_about(_: int, body: dict[str, Any]) -> Answer:
        facts = body["messages"][0]["content"].rsplit("\n", 1)[-1]
        return reply(f"{words[len(facts) % 5]} {words[len(facts) // 5 % 5]}")

    with serving(words_about) as server:
        written = describe(endpoint(server.url), corpus, tmp_path / "d")
    chosen = config(
        items={"source": "descriptions"},
        users={"source": "descriptions"},
        more={"facts": {"encoder": "lsa"}},
        lsa={"dim": 3, "min_df": 1},
    )
    made = embed(chosen, corpus, tmp_path / "e", descriptions=written)
    assert made.manifest.inputs["descriptions"] == written.manifest.fingerprint
    # the same words give the same vector, on either side
    texts = [*written.items["text"], *written.users["text"]]
    vectors = np.concatenate([made.items, made.users])
    for text in set(texts):
        rows = vectors[[one == text for one in texts]]
        np.testing.assert_array_equal(rows, np.broadcast_to(rows[0], rows.shape))
    plain = embed(config(lsa={"dim": 3, "min_df": 1}), corpus, tmp_path / "plain")
    np.testing.assert_array_equal(made.modalities["facts"], plain.items)
    with pytest.raises(ValueError, match="needs the artifact of the stage `describe`"):
        embed(chosen, corpus, tmp_path / "f")

    def fewer(data: dict[str, Any]) -> None:
        data["items"] = data["items"].with_columns(title=pl.lit("x"))

    other = make_corpus(tmp_path / "other", fewer)
    with pytest.raises(ValueError, match="descriptions are of another corpus"):
        embed(chosen, other, tmp_path / "f", descriptions=written)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "give either 'local' or 'endpoint'"),
        (
            {"endpoint": {"base_url": "ftp://x", "model": "m"}},
            "endpoint.base_url: expected http://",
        ),
        (
            {"local": {"name": "x"}, "prompts": {"item": "Hello"}},
            r"prompts.item: the prompt has no place for the facts; write \{item\} there",
        ),
    ],
)
def test_bad_configs_are_named(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_config(DescribeConfig, section, "test: describe")


def test_sources_that_have_no_effect_are_named() -> None:
    with pytest.raises(ValueError, match="source has no effect with encoder 'history_mean'"):
        config(users={"encoder": "history_mean", "source": "descriptions"})
    with pytest.raises(ValueError, match="columns has no effect with source 'descriptions'"):
        config(items={"source": "descriptions", "columns": ["title"]})


def failing(corpus: Corpus, tmp_path: Path, chosen: DescribeConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        describe(chosen, corpus, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_failures_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    url = "http://127.0.0.1:9/v1"
    failing(corpus, tmp_path, endpoint(url, api_key_env="NO_SUCH"), "NO_SUCH is not set")
    failing(corpus, tmp_path, endpoint(url, max_retries=1), r"refused.*\(try 2\)")
    with serving(lambda *_: (200, "<html>", {})) as server:
        failing(corpus, tmp_path, endpoint(server.url), "did not answer in the form .* <html>")
    with serving(lambda *_: reply(None)) as server:
        failing(corpus, tmp_path, endpoint(server.url), "answers are empty")
    assert not (tmp_path / "out_cache.jsonl").read_text()
    with serving(lambda *_: (500, "down", {})) as server:
        chosen = endpoint(server.url, max_retries=2, concurrency=1)
        failing(corpus, tmp_path, chosen, r"500 .*: down \(try 3\)")
        assert len(server.bodies) == 3
    bad = {"endpoint": {"base_url": url, "model": "m"}, "prompts": {"item_columns": ["job"]}}
    chosen = build_config(DescribeConfig, bad, "test: describe")
    failing(corpus, tmp_path, chosen, "describe.prompts.item_columns: no column 'job'")
    local = {"local": {"name": str(tmp_path / "corpus")}}
    chosen = build_config(DescribeConfig, local, "test: describe")
    failing(corpus, tmp_path, chosen, "cannot load")
