import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.decomposition import PCA
from tests.generative.test_models import GPT2, LLAMA, named, save_llm
from tests.generative.world import NUM_ITEMS, NUM_USERS, World, make_corpus, scratch
from torch import Tensor
from transformers import AutoTokenizer

from dasrec.core import Corpus, SemanticIds, SidTable, build_config
from dasrec.generative import BaseModelConfig
from dasrec.generative.model.base_model import build_base_model
from dasrec.generative.model.text_tokenizer import train_tokenizer

WIDE = 40
"""Code dimension above the models' width of 16."""


def with_codebooks(sids: SemanticIds, width: int) -> SemanticIds:
    """Random codewords: all user levels, and the item levels but the last (a disambiguation)."""
    rng = np.random.default_rng(3)

    def table(side: SidTable, levels: int) -> SidTable:
        books = tuple(
            (rng.normal(size=(size, width)) * 10.0**level + 5).astype(np.float32)
            for level, size in enumerate(side.level_sizes[:levels])
        )
        return dataclasses.replace(side, codebooks=books)

    assert sids.users is not None
    return dataclasses.replace(sids, items=table(sids.items, 2), users=table(sids.users, 2))


def built(
    corpus: Corpus, sids: SemanticIds, path: Path, family: str = "llama", **values: Any
) -> tuple[Any, Any]:
    """Model and vocabulary of a small LM; `scratch: True` builds it instead of loading it."""
    if values.pop("scratch", False):
        config = build_config(BaseModelConfig, scratch(family) | values, "base")
    else:
        config = named(path, **values)
    model, _, vocabulary = build_base_model(config, corpus, sids, seed=0)
    return model, vocabulary


def text_rows(model: Any, side: str, count: int) -> Tensor:
    """(V, H) rows that were there before the SID tokens."""
    weight: Tensor = getattr(model, f"get_{side}_embeddings")().weight
    return weight[:count].detach().double()


def spread(rows: Tensor) -> Tensor:
    return (rows - rows.mean(0)).square().sum(1).mean()


@pytest.fixture(scope="module")
def llm(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = LLAMA | {"initializer_range": 0.3, "tie_word_embeddings": False}
    return save_llm(tmp_path_factory.mktemp("llm"), world, "llama", options)


@pytest.fixture(scope="module")
def num_text(world: World) -> int:
    return len(train_tokenizer(280, world.corpus))


def test_text_mean_draws_rows_like_the_text_rows(world: World, llm: Path, num_text: int) -> None:
    model, vocabulary = built(world.corpus, world.sids, llm)
    for side in ("input", "output"):
        text = text_rows(model, side, num_text)
        weight = getattr(model, f"get_{side}_embeddings")().weight.detach().double()
        rows = weight[vocabulary.new_token_ids]
        noise = (rows - text.mean(0)) / text.std(0)
        assert abs(float(noise.mean())) < 4 / noise.numel() ** 0.5
        assert abs(float(noise.std()) - 1) < 4 / noise.numel() ** 0.5
        assert float(torch.pdist(rows).min()) > 1e-2


@pytest.mark.parametrize("source", ["named", "scratch"])
@pytest.mark.parametrize("width", [8, WIDE])
def test_codebook_rows_keep_the_distances_of_the_codewords(
    world: World, llm: Path, num_text: int, width: int, source: str
) -> None:
    sids = with_codebooks(world.sids, width)
    values = {"token_init": "codebook", "scratch": source == "scratch"}
    model, vocabulary = built(world.corpus, sids, llm, "qwen3", **values)
    assert sids.users is not None
    for side in ("input", "output"):
        weight = getattr(model, f"get_{side}_embeddings")().weight.detach().double()
        levels = [*vocabulary.item_levels[:2], *vocabulary.user_levels]
        books = [*sids.items.codebooks, *sids.users.codebooks]
        for tokens, book in zip(levels, books, strict=True):
            rows, words = weight[list(tokens)], book.astype(np.float64)
            near = torch.pdist(rows) / torch.pdist(torch.from_numpy(words))
            torch.testing.assert_close(near, near[:1].expand_as(near), rtol=1e-4, atol=0)
            if source == "named":
                text = text_rows(model, side, num_text)
                torch.testing.assert_close(rows.mean(0), text.mean(0), rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(spread(rows), spread(text), rtol=1e-4, atol=0)


def test_more_codewords_than_dimensions_keep_their_principal_axes(
    world: World, llm: Path, num_text: int
) -> None:
    rng = np.random.default_rng(5)
    book = (rng.normal(size=(100, WIDE)) * np.linspace(3, 0.1, WIDE)).astype(np.float32)
    codes = np.stack([np.arange(NUM_ITEMS) * 2, np.arange(NUM_ITEMS) % 2], 1).astype(np.uint16)
    items = dataclasses.replace(
        world.sids.items, codes=codes, level_sizes=(100, 2), codebooks=(book,)
    )
    sids = dataclasses.replace(world.sids, items=items, users=None)
    model, vocabulary = built(world.corpus, sids, llm, token_init="codebook")
    rows = model.get_input_embeddings().weight.detach().double()[list(vocabulary.item_levels[0])]
    words = PCA(16).fit_transform(book.astype(np.float64))
    near = torch.pdist(rows) / torch.pdist(torch.from_numpy(words))
    torch.testing.assert_close(near, near[:1].expand_as(near), rtol=1e-3, atol=0)
    torch.testing.assert_close(
        spread(rows), spread(text_rows(model, "input", num_text)), rtol=1e-4, atol=0
    )


def test_what_has_no_codeword_starts_as_under_text_mean(world: World, llm: Path) -> None:
    sids = with_codebooks(world.sids, 8)
    plain, vocabulary = built(world.corpus, sids, llm)
    model, _ = built(world.corpus, sids, llm, token_init="codebook")
    kept = [*vocabulary.item_levels[2], *vocabulary.control.values()]
    moved = [*vocabulary.item_levels[0], *vocabulary.item_levels[1], *vocabulary.user_levels[1]]
    before, after = (m.get_input_embeddings().weight for m in (plain, model))
    assert torch.equal(before[kept], after[kept])
    assert (before[moved] != after[moved]).any(1).all()


def titles_of(corpus: Corpus, weight: Tensor, llm: Path) -> list[Tensor | None]:
    """Per item the mean row of its title's tokens."""
    tokenizer = AutoTokenizer.from_pretrained(llm)
    found: list[Tensor | None] = []
    for title in corpus.items["title"]:
        ids = tokenizer(title or "")["input_ids"]
        found.append(weight[ids].mean(0) if ids else None)
    return found


def scaled(vectors: list[Tensor], text: Tensor) -> Tensor:
    rows = torch.stack(vectors)
    factor = (spread(text) / spread(rows)).sqrt()
    return text.mean(0) + factor * (rows - rows.mean(0))


def some_without_title(corpus: Corpus) -> Corpus:
    """Items 0 to 15 (all that carry code 0 of level 0) and item 20 have no title."""
    titles = [
        None if i < 16 or i == 20 else f"thing number {i} of {'abc'[i % 3]}"
        for i in range(NUM_ITEMS)
    ]
    return with_items(corpus, corpus.items.with_columns(pl.Series("title", titles)))


def with_items(corpus: Corpus, items: pl.DataFrame) -> Corpus:
    changed = copy.copy(corpus)
    changed.__dict__["items"] = items  # a cached property
    return changed


def test_item_text_rows_are_means_of_title_rows(world: World, llm: Path, num_text: int) -> None:
    corpus, sids = some_without_title(world.corpus), world.sids
    model, vocabulary = built(corpus, sids, llm, token_init="item_text")
    plain, _ = built(corpus, sids, llm)
    for side in ("input", "output"):
        weight = getattr(model, f"get_{side}_embeddings")().weight.detach().double()
        text = text_rows(model, side, num_text)
        titles = titles_of(corpus, text, llm)
        for level, tokens in enumerate(vocabulary.item_levels):
            means, real = [], []
            for code, token in enumerate(tokens):
                carriers = np.flatnonzero(sids.items.codes[:, level] == code)
                found = [v for i in carriers if (v := titles[i]) is not None]
                if found:
                    means.append(torch.stack(found).mean(0))
                    real.append(token)
            assert len(real) == (2 if level == 0 else 4)
            torch.testing.assert_close(weight[real], scaled(means, text), rtol=1e-4, atol=1e-5)
        without = vocabulary.item_levels[0][0]
        before = getattr(plain, f"get_{side}_embeddings")().weight[without]
        assert torch.equal(weight[without].float(), before)


def test_user_rows_are_means_over_training_histories(
    world: World, llm: Path, num_text: int
) -> None:
    corpus, sids = some_without_title(world.corpus), world.sids
    assert sids.users is not None
    model, vocabulary = built(corpus, sids, llm, token_init="item_text")
    text = text_rows(model, "input", num_text)
    titles = titles_of(corpus, text, llm)
    users: list[Tensor | None] = []
    for user in range(NUM_USERS):
        rows = (corpus.user_idx == user) & (np.asarray(corpus.split) == 0)
        found = [v for i in corpus.item_idx[rows] if (v := titles[i]) is not None]
        users.append(torch.stack(found).mean(0) if found else None)
    for level, tokens in enumerate(vocabulary.user_levels):
        means = []
        for code in range(len(tokens)):
            carriers = np.flatnonzero(sids.users.codes[:, level] == code)
            means.append(torch.stack([v for u in carriers if (v := users[u]) is not None]).mean(0))
        rows = model.get_input_embeddings().weight.detach().double()[list(tokens)]
        torch.testing.assert_close(rows, scaled(means, text), rtol=1e-4, atol=1e-5)


def test_rows_do_not_depend_on_validation_and_test_items(
    world: World, llm: Path, tmp_path: Path
) -> None:
    weights = []
    for last in (None, 5):
        corpus = make_corpus(tmp_path / str(last), last_items=last)
        model, _ = built(corpus, world.sids, llm, token_init="item_text")
        weights.append(model.get_input_embeddings().weight)
    assert torch.equal(weights[0], weights[1])


@pytest.mark.parametrize("kind", ["codebook", "item_text"])
@pytest.mark.parametrize("tied", [True, False])
def test_tied_models_stay_tied_and_may_be_cut(
    world: World, tmp_path: Path, tied: bool, kind: str
) -> None:
    sids = with_codebooks(world.sids, 8)
    path = save_llm(tmp_path / "llm", world, "gpt2", GPT2, tie_word_embeddings=tied)
    whole, names = built(world.corpus, sids, path, token_init=kind)
    cut, small = built(world.corpus, sids, path, token_init=kind, sid_vocabulary_only=True)
    for side in ("input", "output"):
        before, after = (getattr(m, f"get_{side}_embeddings")().weight for m in (whole, cut))
        assert torch.equal(before[names.new_token_ids], after[small.new_token_ids])
    for model in (whole, cut):
        same = model.get_input_embeddings().weight is model.get_output_embeddings().weight
        assert same is tied


def test_what_an_init_starts_from_must_be_there(world: World, llm: Path) -> None:
    with pytest.raises(ValueError, match=r"codebook, but .* of the items carry no codeb"):
        built(world.corpus, world.sids, llm, token_init="codebook")
    assert world.sids.users is not None
    half = with_codebooks(world.sids, 8)
    half = dataclasses.replace(half, users=world.sids.users)
    with pytest.raises(ValueError, match="the semantic IDs of the users carry no codebooks"):
        built(world.corpus, half, llm, token_init="codebook")
    bare = with_items(world.corpus, world.corpus.items.drop("title"))
    with pytest.raises(ValueError, match="item_text, but no item of the catalogue has a text"):
        built(bare, world.sids, llm, token_init="item_text")
    values = {"token_init": "item_text", "sid_vocabulary_only": True}
    with pytest.raises(ValueError, match="a scratch model with sid_vocabulary_only has none"):
        build_config(BaseModelConfig, scratch("gpt2") | values, "base")
