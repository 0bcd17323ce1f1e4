import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from huggingface_hub import ModelCard
from peft.tuners.lora import LoraModel
from tests.generative.world import (
    NUM_ITEMS,
    World,
    make_sids,
    pretrain_config,
    scratch,
    sft_config,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from dasrec.core import (
    SidTable,
    build_config,
    load_corpus,
    load_manifest,
    load_sids,
    save_sids_payload,
    write_artifact,
)
from dasrec.core.corpus import save_corpus_payload
from dasrec.generative import (
    BaseModelConfig,
    SidTrie,
    add_lora,
    build_trie,
    constrained_beam_search,
    load_generator,
    pretrain,
    query_prompts,
    sft,
)
from dasrec.generative.data.prompts import TIME_BUCKETS, time_buckets
from dasrec.generative.export.export import ExportConfig, export_generator
from dasrec.generative.export.grammar import sid_grammar
from dasrec.generative.export.merge import merge_adapter
from dasrec.generative.export.push import push_export
from dasrec.generative.model.base_model import build_base_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
]

TRAINER = {"learning_rate": 2e-2, "num_train_epochs": 2, "per_device_train_batch_size": 8}
METRICS = {"test": {"queries": 60, "recall@10": 0.25, "ndcg@10": 0.125, "mrr@10": 0.1}}
CONFIG = ExportConfig(
    name="walker", dataset="The Walks", license="mit", users=True, base_model="a/b"
)


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model and an adapter whose matrices and token rows all moved."""
    root = tmp_path_factory.mktemp("trained")
    base = pretrain_config(
        base=scratch("llama", initializer_range=0.3), validation_queries=0, trainer=TRAINER
    )
    pretrain(base, world.corpus, world.sids, root / "base")
    tuned = sft_config(validation_queries=0, trainer=TRAINER)
    sft(tuned, root / "base", world.corpus, world.sids, root / "lm")
    return root


@pytest.fixture(scope="module")
def exported(world: World, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "model"
    export_generator(CONFIG, trained / "lm", world.corpus, world.sids, out, metrics=METRICS)
    return out


def walk(world: World, trained: Path, items: list[int], user: int | None = None) -> torch.Tensor:
    """(1, T) a prompt by hand: who, then the codes of each item."""
    vocabulary = load_generator(trained / "lm", world.sids).vocabulary
    tokens = [vocabulary.control["<|anonymous|>"]]
    if user is not None:
        assert world.sids.users is not None
        codes = world.sids.users.codes[user]
        tokens = [vocabulary.control["<|user|>"]]
        tokens += [vocabulary.user_levels[n][code] for n, code in enumerate(codes)]
    for item in items:
        codes = world.sids.items.codes[item]
        tokens += [vocabulary.item_levels[n][code] for n, code in enumerate(codes)]
    return torch.tensor([tokens])


def without_dasrec(script: str, *arguments: str) -> str:
    """What a script prints in a fresh process in which dasrec cannot be imported."""
    block = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'dasrec': raise ImportError('dasrec is blocked')\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", block + script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_export_is_a_plain_model_that_computes_what_the_adapter_does(
    world: World, trained: Path, exported: Path
) -> None:
    ids = walk(world, trained, [0, 7, 14], user=3)
    model = AutoModelForCausalLM.from_pretrained(exported).eval()
    generator = load_generator(trained / "lm", world.sids)
    base = AutoModelForCausalLM.from_pretrained(trained / "base").eval()
    with torch.no_grad():
        expected = generator.model(ids).logits
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-5)
        assert float((base(ids).logits - expected).abs().max()) > 0.01  # the adapter does something
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert not any("lora" in name or "trainable" in name for name in model.state_dict())
    assert model.generation_config.do_sample is False
    manifest = load_manifest(exported, "export", {"semantic_ids": world.sids.manifest})
    assert manifest.metrics["merge_difference"] < 1e-5


def test_the_adapter_opens_without_dasrec_as_its_readme_says(
    world: World, trained: Path, tmp_path: Path
) -> None:
    readme = (trained / "lm" / "README.md").read_text()
    block = re.search(r"```python\n(.*?)```", readme, re.S)
    assert block
    code = block[1].replace('Path("...")', f"Path({str(trained / 'lm')!r})")
    assert str(trained) in code
    ids = walk(world, trained, [0, 7, 14], user=3)
    tail = (
        f"\nimport torch\nids = torch.tensor({ids.tolist()})\n"
        f"torch.save(model(ids).logits.detach(), {str(tmp_path / 'logits.pt')!r})\n"
        "print(tokenizer.decode(ids[0][:2]))"
    )
    printed = without_dasrec(code + tail)
    generator = load_generator(trained / "lm", world.sids)
    with torch.no_grad():
        expected = generator.model(ids).logits
    found = torch.load(tmp_path / "logits.pt")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert printed.startswith("<|das_user|>")
    assert str(trained) not in readme


def test_the_tables_say_what_every_token_and_item_is(
    world: World, trained: Path, exported: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(exported)
    table = json.loads((exported / "sid_vocabulary.json").read_text())
    assert table["sids_fingerprint"] == world.sids.fingerprint
    assert len(table["tokens"]) == 3 * 4 + 2 * 3
    for name, entry in table["tokens"].items():
        assert name == f"<{entry['side'][0]}{entry['level']}_{entry['code']}>"
        assert tokenizer.convert_tokens_to_ids(name) == entry["id"]
    for entry in table["control"].values():
        assert tokenizer.convert_tokens_to_ids(entry["token"]) == entry["id"]

    items = pl.read_parquet(exported / "items.parquet")
    assert items["item_id"].to_list() == world.corpus.items["item_id"].to_list()
    assert items["title"][5] == "thing number 5"
    assert json.loads((exported / "item_ids.json").read_text()) == items["item_id"].to_list()
    for row, codes in zip(items.iter_rows(named=True), world.sids.items.codes, strict=True):
        assert row["sid"] == "-".join(map(str, codes))
        assert row["sid_tokens"] == "".join(f"<i{n}_{code}>" for n, code in enumerate(codes))
        assert tokenizer(row["sid_tokens"])["input_ids"] == row["token_ids"]
    users = pl.read_parquet(exported / "users.parquet")
    assert world.sids.users is not None
    assert users["sid"][3] == "-".join(map(str, world.sids.users.codes[3]))

    trie = SidTrie.load(exported / "trie.safetensors", world.sids.fingerprint)
    codes = np.asarray(world.sids.items.codes)
    assert {tuple(row) for row in trie.leaf_codes().tolist()} == {tuple(row) for row in codes}


def expand(grammar: str) -> list[tuple[int, ...]]:
    """All token sequences that a grammar of `Token(...)` and rules derives."""
    rules = dict(line.split(" ::= ") for line in grammar.splitlines())

    def derive(rule: str) -> list[tuple[int, ...]]:
        found = []
        for part in rules[rule].split(" | "):
            match = re.fullmatch(r"Token\(([\d, ]+)\)(?: (\w+))?", part)
            assert match, part
            rest = derive(match[2]) if match[2] else [()]
            found += [(int(token), *tail) for token in match[1].split(", ") for tail in rest]
        return found

    return derive("root")


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_the_grammar_derives_the_items_and_nothing_else(levels: int) -> None:
    rng = np.random.default_rng(levels)
    codes = rng.integers(0, 5, (60, levels))
    tokens = [rng.permutation(100)[:5] + 100 * level for level in range(levels)]
    trie = SidTrie.from_sids(codes, [5] * levels, tokens)
    expected = {tuple(int(tokens[n][code]) for n, code in enumerate(row)) for row in codes}
    found = expand(sid_grammar(trie))
    assert sorted(found) == sorted(expected)  # each once


def test_alike_subtrees_share_a_rule() -> None:
    codes = np.stack(np.meshgrid(*[np.arange(6)] * 3, indexing="ij"), -1).reshape(-1, 3)
    trie = SidTrie.from_sids(codes, (6, 6, 6), [np.arange(6) + 10 * n for n in range(3)])
    assert len(sid_grammar(trie).splitlines()) == 3


def searched(world: World, trained: Path, ids: torch.Tensor) -> tuple[list[str], list[float]]:
    """The six best items of an exhaustive search, and their scores."""
    generator = load_generator(trained / "lm", world.sids)
    trie = build_trie(world.corpus, world.sids, generator.vocabulary)
    found = constrained_beam_search(
        generator.model, ids, torch.ones_like(ids), trie, num_beams=NUM_ITEMS, num_items=6
    )
    return [f"i{item}" for item in found.items[0]], found.scores[0].tolist()


def test_the_standalone_script_finds_what_the_constrained_search_finds(
    world: World, trained: Path, exported: Path
) -> None:
    assert world.sids.users is not None
    arguments = ["--user-sid", "-".join(map(str, world.sids.users.codes[3]))]
    arguments += ["--history", "i0,i7,i14", "--num-items", "6", "--num-beams", str(NUM_ITEMS)]
    path = str(exported / "recommend.py")
    script = f"import runpy; runpy.run_path({path!r}, run_name='__main__')"
    found = [json.loads(line) for line in without_dasrec(script, *arguments).splitlines()]
    items, scores = searched(world, trained, walk(world, trained, [0, 7, 14], user=3))
    assert [line["item_id"] for line in found] == items
    np.testing.assert_allclose([line["log_p"] for line in found], scores, atol=1e-4)


@pytest.fixture
def standalone(exported: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """recommend.py of the export, importable under its own name as its neighbours do."""
    return load_script(exported / "recommend.py", monkeypatch)


def load_script(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


def test_the_standalone_search_drops_beams_without_items(
    world: World, trained: Path, exported: Path, standalone: ModuleType
) -> None:
    catalogue = standalone.Catalogue()
    model = AutoModelForCausalLM.from_pretrained(exported).eval()
    prompt = standalone.prompt_tokens(catalogue, ["i0", "i7"])
    found = standalone.recommend(model, catalogue, prompt, 6, num_beams=2 * NUM_ITEMS)
    items, scores = searched(world, trained, walk(world, trained, [0, 7]))
    assert [item for item, _ in found] == items
    np.testing.assert_allclose([score for _, score in found], scores, atol=1e-4)
    whole = standalone.recommend(model, catalogue, prompt, 2 * NUM_ITEMS, 2 * NUM_ITEMS)
    assert sorted(item for item, _ in whole) == sorted(catalogue.item_ids)


class FakeVllm:
    """What serve_vllm.py uses of vllm, computed with transformers."""

    def __init__(self, model: str, **options: Any) -> None:
        assert options["logprobs_mode"] == "processed_logprobs"
        self.most = options["max_logprobs"]
        self.model = AutoModelForCausalLM.from_pretrained(model).eval()

    @torch.no_grad()
    def generate(self, prompts: list[dict[str, list[int]]], params: Any, use_tqdm: bool) -> Any:
        assert params.max_tokens == 1
        assert params.logprobs <= self.most
        outputs = []
        for prompt in prompts:
            logits = self.model(torch.tensor([prompt["prompt_token_ids"]])).logits[0, -1]
            log_p = logits[params.allowed_token_ids].log_softmax(-1).tolist()
            best = sorted(zip(log_p, params.allowed_token_ids, strict=True))[::-1]
            kept = {t: SimpleNamespace(logprob=p) for p, t in best[: params.logprobs]}
            outputs.append(SimpleNamespace(outputs=[SimpleNamespace(logprobs=[kept])]))
        return outputs


def test_the_vllm_script_searches_like_the_standalone_one(
    exported: Path, standalone: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = SimpleNamespace(LLM=FakeVllm, SamplingParams=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "vllm", fake)
    script = load_script(exported / "serve_vllm.py", monkeypatch)
    catalogue = standalone.Catalogue()
    prompt = standalone.prompt_tokens(catalogue, ["i0", "i7"])
    beams = script.search(script.load(catalogue), catalogue, prompt, 8)
    model = AutoModelForCausalLM.from_pretrained(exported).eval()
    expected = standalone.recommend(model, catalogue, prompt, 8, 8)
    found = [(catalogue.item_ids[catalogue.items_of[sid][0]], score) for sid, score in beams]
    assert [item for item, _ in found] == [item for item, _ in expected]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=1e-4)


def test_the_standalone_prompt_is_that_of_every_format(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = {"max_history": 3, "time": True, "context": ["user_id"], "context_tokens": 2}
    untrained = {**TRAINER, "num_train_epochs": 0}
    config = pretrain_config(prompt=form, validation_queries=0, trainer=untrained)
    pretrain(config, world.corpus, world.sids, tmp_path / "base")
    export_generator(CONFIG, tmp_path / "base", world.corpus, world.sids, tmp_path / "out")
    script = load_script(tmp_path / "out" / "recommend.py", monkeypatch)
    builder = load_generator(tmp_path / "base", world.sids).sequence_builder(
        world.corpus, world.sids
    )
    users = pl.read_parquet(tmp_path / "out" / "users.parquet")
    catalogue = script.Catalogue()
    corpus = world.corpus
    for query in corpus.queries("test")[:4]:
        user = int(corpus.user_idx[query])
        rows = slice(corpus.user_start[user], query)
        expected = query_prompts(corpus, builder, np.array([query])).tokens.tolist()
        found = script.prompt_tokens(
            catalogue,
            [f"i{item}" for item in corpus.item_idx[rows]],
            user_sid=[int(code) for code in users["sid"][user].split("-")],
            context=users["context"][user],
            times=corpus.timestamp[rows].tolist(),
            now=int(corpus.timestamp[query]),
        )
        assert found == expected
    gaps = [0, 59, 60, 179, 180, 86_400, 10**9, 10**15, -5]
    table = {"time": [{"id": bucket} for bucket in range(TIME_BUCKETS + 1)]}
    buckets = [script.gap_token(table, 100, 100 + gap)[0] for gap in gaps]
    assert buckets == time_buckets(np.array(gaps)).tolist()
    assert script.gap_token(table, None, 5) == script.gap_token(table, 5, None) == [TIME_BUCKETS]


def test_unknown_history_items_are_named(standalone: ModuleType) -> None:
    with pytest.raises(ValueError, match="item 'nope' is not in the catalogue"):
        standalone.prompt_tokens(standalone.Catalogue(), ["i0", "nope"])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3"])
def test_merging_keeps_logits_and_ties_of_every_family(
    world: World, tmp_path: Path, architecture: str, tied: bool
) -> None:
    config = scratch(architecture, tie_word_embeddings=tied)
    base = build_config(BaseModelConfig, config, "base")
    model, _, vocabulary = build_base_model(base, world.corpus, world.sids, seed=0)
    text_rows = model.get_input_embeddings().weight[:50].clone()
    wrapped = add_lora(model, vocabulary, {"r": 2, "target_modules": "all-linear"})
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    wrapped.eval()
    ids = torch.tensor([[vocabulary.control["<|anonymous|>"], *vocabulary.new_token_ids[:20]]])
    with torch.no_grad():
        expected = wrapped(ids).logits
    merged, difference = merge_adapter(wrapped, [ids[0]])
    assert difference < 1e-5
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, expected, atol=1e-5, rtol=1e-5)
    embeddings, head = again.get_input_embeddings().weight, again.get_output_embeddings().weight
    assert (embeddings is head) == tied
    assert torch.equal(embeddings[:50], text_rows)


def test_a_merge_that_changes_the_model_is_refused(
    world: World, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LoraModel.merge_and_unload

    def forgetful(self: Any) -> Any:
        merged = original(self)
        with torch.no_grad():
            merged.get_input_embeddings().weight[-1] += 0.01
            merged.model.layers[0].mlp.up_proj.weight += 0.01
        return merged

    monkeypatch.setattr(LoraModel, "merge_and_unload", forgetful)
    with pytest.raises(ValueError, match="merging the adapter changed a logit by"):
        export_generator(CONFIG, trained / "lm", world.corpus, world.sids, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_model_without_adapter_exports_in_bfloat16(
    world: World, trained: Path, tmp_path: Path
) -> None:
    config = ExportConfig(dtype="bfloat16")
    export_generator(config, trained / "base", world.corpus, world.sids, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    base = AutoModelForCausalLM.from_pretrained(trained / "base")
    assert model.dtype == torch.bfloat16
    for name, weight in base.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight.bfloat16())
    assert not (tmp_path / "out" / "users.parquet").exists()
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert (card.data.license, card.data.license_name) == ("other", "unknown")
    assert "License: **not stated**" in card.text
    assert "was not evaluated" in card.text


def test_a_fully_fine_tuned_generator_exports(world: World, trained: Path, tmp_path: Path) -> None:
    tuned = sft_config(lora=None, validation_queries=0, trainer=TRAINER)
    sft(tuned, trained / "base", world.corpus, world.sids, tmp_path / "full")
    export_generator(CONFIG, tmp_path / "full", world.corpus, world.sids, tmp_path / "out")
    ids = walk(world, trained, [0, 7])
    expected = load_generator(tmp_path / "full", world.sids).model(ids).logits
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    base = AutoModelForCausalLM.from_pretrained(trained / "base").eval()(ids).logits
    assert float((base - found).detach().abs().max()) > 0.01


def test_a_model_without_text_tokens_exports(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pretrain_config(
        base={**scratch("qwen3"), "sid_vocabulary_only": True},
        tasks={"next_item": 1.0},
        validation_queries=0,
        trainer={**TRAINER, "num_train_epochs": 0},
    )
    pretrain(config, world.corpus, world.sids, tmp_path / "base")
    export_generator(CONFIG, tmp_path / "base", world.corpus, world.sids, tmp_path / "out")
    script = load_script(tmp_path / "out" / "recommend.py", monkeypatch)
    catalogue = script.Catalogue()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    prompt = script.prompt_tokens(catalogue, ["i3"])
    found = script.recommend(model, catalogue, prompt, NUM_ITEMS, NUM_ITEMS)
    assert sorted(item for item, _ in found) == sorted(catalogue.item_ids)


def test_the_card_tells_the_hub_and_the_reader(world: World, exported: Path) -> None:
    card = ModelCard.load(exported / "README.md")
    assert card.data.license == "mit"
    assert card.data.model_name == "walker"
    assert card.data.base_model == "a/b"
    assert "(llama, from `a/b`)" in card.text
    results = {result.metric_type: result for result in card.data.eval_results}
    assert set(results) == {"recall@10", "ndcg@10"}
    assert results["recall@10"].metric_value == 0.25
    assert results["recall@10"].dataset_name == "The Walks"
    assert card.data.datasets == [results["recall@10"].dataset_type] == ["the-walks"]
    assert "`<|das_anonymous|><i0_0><i1_0><i2_0><i0_0><i1_0><i2_1>`" in card.text
    assert "| mrr@10 | 0.1000 |" in card.text
    assert "SYNTHETIC" not in card.text
    assert "| queries | 60 |" in card.text
    rows = len(world.corpus.train_rows)
    assert f"60 users, 48 items, {rows} training interactions" in card.text
    assert world.corpus.manifest.fingerprint in card.text
    for name in load_manifest(exported, "export").files:
        assert (
            name in card.text
            or f"`{name.split('.')[0]}" in card.text
            or "token" in name
            or (name == "README.md" or name == "generation_config.json")
        )


def test_an_export_names_no_place_and_is_the_same_each_time(
    world: World, trained: Path, exported: Path, tmp_path: Path
) -> None:
    for path in exported.iterdir():
        content = path.read_bytes()
        assert str(trained.parent).encode() not in content, path.name
        assert str(exported.parent).encode() not in content, path.name
    out = tmp_path / "again"
    again = export_generator(CONFIG, trained / "lm", world.corpus, world.sids, out, metrics=METRICS)
    assert again.fingerprint == load_manifest(exported, "export").fingerprint


def test_missing_and_taken_places_are_one_message(
    world: World, trained: Path, exported: Path, tmp_path: Path
) -> None:
    with pytest.raises(FileExistsError, match="choose another folder"):
        export_generator(CONFIG, trained / "lm", world.corpus, world.sids, exported)
    with pytest.raises(FileNotFoundError, match="no 'base_model' artifact here"):
        export_generator(CONFIG, trained / "no", world.corpus, world.sids, tmp_path / "out")
    shutil.copytree(trained / "lm", tmp_path / "alone" / "lm")
    with pytest.raises(FileNotFoundError, match="base: no 'base_model' artifact here"):
        export_generator(
            CONFIG, tmp_path / "alone" / "lm", world.corpus, world.sids, tmp_path / "out"
        )
    other = make_sids(tmp_path / "sids", world.corpus, user_side=False)
    with pytest.raises(ValueError, match="was built from semantic_ids"):
        export_generator(CONFIG, trained / "lm", world.corpus, other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def later_world(world: World, root: Path) -> World:
    """The catalogue with four more items, whose SIDs extend the published ones."""
    corpus, sids = world.corpus, world.sids
    more = pl.DataFrame({"item_id": [f"new{n}" for n in range(4)], "title": ["new thing"] * 4})
    write_artifact(
        root / "corpus",
        "corpus",
        {"later": True},
        {},
        lambda folder: save_corpus_payload(
            folder,
            user_idx=corpus.user_idx,
            item_idx=corpus.item_idx,
            timestamp=corpus.timestamp,
            split=corpus.split,
            users=corpus.users,
            items=pl.concat([corpus.items, more]),
            impressions=None,
        ),
    )
    later = load_corpus(root / "corpus")
    added = np.array([[3, 0, 0], [3, 0, 1], [3, 1, 0], [3, 3, 3]])
    codes = np.concatenate([sids.items.codes, added]).astype(np.uint16)
    table = SidTable(codes, (4, 4, 4), np.zeros((len(codes), 2), np.float32), ())
    write_artifact(
        root / "sids",
        "semantic_ids",
        {},
        {"corpus": later.manifest},
        lambda folder: save_sids_payload(folder, table, sids.users, (sids.fingerprint,)),
    )
    return World(later, load_sids(root / "sids", later.manifest))


def test_semantic_ids_that_extend_those_of_the_training_are_exported(
    world: World, trained: Path, tmp_path: Path
) -> None:
    later = later_world(world, tmp_path)
    out = tmp_path / "out"
    export_generator(CONFIG, trained / "lm", later.corpus, later.sids, out)
    assert SidTrie.load(out / "trie.safetensors", later.sids.fingerprint).num_items == 52
    assert pl.read_parquet(out / "items.parquet")["sid"][-1] == "3-3-3"
    assert len(expand((out / "sids.ebnf").read_text())) == 52
    assert json.loads((out / "sid_vocabulary.json").read_text())["sids_version"] == 2


def test_large_catalogues_get_no_grammar_and_the_card_says_so(
    world: World, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dasrec.generative.export.export.MAX_SIDS", 47)
    out = tmp_path / "out"
    export_generator(CONFIG, trained / "base", world.corpus, world.sids, out)
    assert not (out / "sids.ebnf").exists()
    assert "too many items for a grammar" in (out / "README.md").read_text()


def test_the_merge_is_into_full_precision_whatever_the_training_loaded(
    world: World, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    for part in ("base", "lm"):  # as `quantization: 4bit` leaves them
        path = tmp_path / "run" / part / "manifest.json"
        manifest = json.loads(path.read_text())
        if part == "base":
            manifest["config"]["base"]["quantization"] = "4bit"
        else:
            base = load_manifest(tmp_path / "run" / "base", "base_model")
            manifest["inputs"]["base_model"] = base.fingerprint
        path.write_text(json.dumps(manifest))
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(ValueError, match="needs bitsandbytes"):
            load_generator(tmp_path / "run" / "lm", world.sids)
    out = tmp_path / "out"
    export_generator(CONFIG, tmp_path / "run" / "lm", world.corpus, world.sids, out)
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.float32


def test_pushing_uploads_the_checked_folder(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    class Api:
        def create_repo(self, repo_id: str, **options: Any) -> None:
            calls.append(("create", repo_id, options))

        def upload_folder(self, **options: Any) -> str:
            calls.append(("upload", options["repo_id"], options))
            return "https://hub/commit"

    monkeypatch.setattr("dasrec.generative.export.push.HfApi", Api)
    assert push_export(exported, "owner/walker") == "https://hub/commit"
    assert [call[:2] for call in calls] == [("create", "owner/walker"), ("upload", "owner/walker")]
    assert calls[0][2] == {"private": True, "exist_ok": True}
    assert calls[1][2]["folder_path"] == exported

    shutil.copytree(exported, tmp_path / "changed")
    (tmp_path / "changed" / "README.md").write_text("else")
    with pytest.raises(ValueError, match=r"README.md: changed since the artifact was written"):
        push_export(tmp_path / "changed", "owner/walker")
    with pytest.raises(FileNotFoundError, match="no 'export' artifact here"):
        push_export(tmp_path, "owner/walker")
    assert len(calls) == 2
