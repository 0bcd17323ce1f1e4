import dataclasses
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.core.small_corpus import NUM_ITEMS, NUM_USERS, config, make_corpus

from dasrec.core import Corpus
from dasrec.core.embed import embed, embed_inputs
from dasrec.core.encoders import normalise
from dasrec.core.texts import item_texts, user_texts


def history(corpus: Corpus, user: int) -> list[int]:
    """The user's training items, most recent first, read off the table row by row."""
    rows = zip(corpus.user_idx, corpus.item_idx, corpus.split, strict=True)
    return [int(i) for u, i, split in rows if u == user and split == 0][::-1]


def test_item_text_is_the_columns_that_have_a_value(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    title = corpus.items["title"].to_list()
    texts = item_texts(corpus).to_list()
    assert texts[0] == f"Title: {title[0]}. Brand: Acme. Categories: Home, Light"
    assert texts[1] == f"Title: {title[1]}. Brand: Bolt. Categories: Home"
    assert texts[2] == f"Title: {title[2]}"
    assert texts[3] == f"Title: {title[3]}"
    assert item_texts(corpus, ["price", "brand"]).to_list()[1:3] == [
        "Price: 0.5. Brand: Bolt",
        "Price: 1.0",
    ]
    assert item_texts(corpus, labels=False)[1] == f"{title[1]}. Bolt. Home"


def test_nested_lists_and_line_breaks_become_one_line(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        paths = [[["Home", "Light"], ["Gift"]]] * NUM_ITEMS
        data["items"] = data["items"].with_columns(
            categories=pl.Series(paths), title=pl.lit(" two\n lines. ")
        )

    corpus = make_corpus(tmp_path / "corpus", change)
    assert item_texts(corpus, ["title", "categories"])[0] == (
        "Title: two lines. Categories: Home, Light > Gift"
    )


def test_user_text_is_the_profile_and_the_last_training_titles(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    titles, texts = corpus.items["title"].to_list(), user_texts(corpus, max_history=2).to_list()
    assert texts[0] == "Gender: f. Age group: 18-24"
    assert texts[1] == f"Age group: 25-34. Recently chosen: {titles[history(corpus, 1)[0]]}"
    first, second = history(corpus, 11)[:2]
    assert texts[11] == f"Gender: m. Recently chosen: {titles[first]}; {titles[second]}"
    for user in range(NUM_USERS):
        shown = "; ".join(titles[i] for i in history(corpus, user)[:2])
        assert texts[user].endswith(shown)
    assert user_texts(corpus, [], max_history=0).to_list() == [""] * NUM_USERS
    assert user_texts(corpus, [], labels=False)[1] == titles[history(corpus, 1)[0]]


def test_lsa_is_tfidf_and_an_exact_truncated_svd(tmp_path: Path) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    corpus = make_corpus(tmp_path / "corpus")
    result = embed(config(), corpus, tmp_path / "embeddings")
    tfidf = TfidfVectorizer(ngram_range=(1, 2), stop_words="english", sublinear_tf=True)
    items = tfidf.fit_transform(item_texts(corpus, labels=False)).toarray()
    users = tfidf.transform(user_texts(corpus, labels=False)).toarray()
    components = np.linalg.svd(items)[2][:4]
    for got, dense in ((result.items, items), (result.users, users)):
        want = normalise(dense @ components.T)
        assert got.dtype == np.float32
        # components are unique up to sign, inner products entirely
        np.testing.assert_allclose(got @ got.T, want @ want.T, atol=2e-3)
    cross = normalise(items @ components.T) @ normalise(users @ components.T).T
    np.testing.assert_allclose(result.items @ result.users.T, cross, atol=2e-3)


def test_same_inputs_same_fingerprint(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    one = embed(config(), corpus, tmp_path / "one", seed=3).manifest
    two = embed(config(), corpus, tmp_path / "two", seed=3).manifest
    assert one.fingerprint == two.fingerprint
    assert one.kind == "embeddings"
    assert one.inputs == {"corpus": corpus.manifest.fingerprint}


def test_history_mean_is_the_recency_weighted_mean(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    chosen = config(users={"encoder": "history_mean", "half_life": 2.0})
    result = embed(chosen, corpus, tmp_path / "embeddings")
    everyone = np.zeros(4)
    for user in range(NUM_USERS):
        for item in history(corpus, user):
            everyone += result.items[item]
    for user in range(NUM_USERS):
        want = np.zeros(4)
        for age, item in enumerate(history(corpus, user)):
            want += 0.5 ** (age / 2) * result.items[item]
        if not history(corpus, user):
            want = everyone
        np.testing.assert_allclose(
            result.users[user], want / np.linalg.norm(want), rtol=1e-4, atol=1e-6
        )


def test_file_rows_follow_source_row(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    raw = np.random.default_rng(2).normal(size=(NUM_ITEMS + 5, 7)).astype(np.float16)
    raw[[r for r in range(len(raw)) if r not in set(corpus.items["source_row"])]] = np.nan
    np.save(tmp_path / "items.npy", raw)
    np.save(tmp_path / "users.npy", np.arange(NUM_USERS * 2.0).reshape(NUM_USERS, 2))
    chosen = config(
        items={"encoder": "file", "file": "items.npy"},
        users={"encoder": "file", "file": "users.npy"},
    )
    result = embed(chosen, corpus, tmp_path / "embeddings", data_dir=tmp_path)
    for item, row in enumerate(corpus.items["source_row"]):
        np.testing.assert_array_equal(result.items[item], raw[row].astype(np.float32))
    np.testing.assert_array_equal(result.users[0], [2 * NUM_USERS - 2, 2 * NUM_USERS - 1])
    assert result.items.dtype == result.users.dtype == np.float32


def test_changed_vectors_change_the_inputs(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    chosen = config(items={"encoder": "file", "file": "v.npy"}, users={"encoder": "history_mean"})
    np.save(tmp_path / "v.npy", np.ones((30, 3)))
    before = embed_inputs(chosen, corpus, tmp_path)
    np.save(tmp_path / "v.npy", np.zeros((30, 3)))
    after = embed_inputs(chosen, corpus, tmp_path)
    assert set(before) == {"corpus", "items_file"}
    assert before["items_file"].fingerprint != after["items_file"].fingerprint
    assert before["corpus"].fingerprint == after["corpus"].fingerprint


def test_pca_keeps_both_sides_in_one_space(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    plain = embed(config(), corpus, tmp_path / "plain")
    chosen = config(items={"pca_dim": 2}, users={"pca_dim": 2})
    result = embed(chosen, corpus, tmp_path / "pca")
    assert plain.items.any(axis=1).all()
    wordless = ~plain.users.any(axis=1)
    assert wordless.any()
    centre = plain.items.mean(0)
    axes = np.linalg.svd(plain.items - centre, full_matrices=False)[2][:2]
    items = normalise((plain.items - centre) @ axes.T)
    users = normalise((plain.users - centre) @ axes.T)
    users[wordless] = 0
    np.testing.assert_allclose(result.items @ result.users.T, items @ users.T, atol=1e-4)


@pytest.mark.parametrize("encoder", ["lsa", "history_mean"])
def test_later_interactions_do_not_reach_the_users(tmp_path: Path, encoder: str) -> None:
    def other_targets(data: dict[str, Any]) -> None:
        later = data["split"] > 0
        data["item_idx"] = np.where(later, (data["item_idx"] + 7) % NUM_ITEMS, data["item_idx"])

    def other_training(data: dict[str, Any]) -> None:
        data["item_idx"] = (data["item_idx"] + 7 * (data["split"] == 0)) % NUM_ITEMS

    chosen = config(users={"encoder": encoder})
    results = []
    for name, change in (("a", None), ("b", other_targets), ("c", other_training)):
        corpus = make_corpus(tmp_path / name, change)
        files = embed(chosen, corpus, tmp_path / f"e{name}").manifest.files
        results.append((user_texts(corpus).to_list(), files["users.npy"], files["items.npy"]))
    assert results[0] == results[1]
    assert results[0][0] != results[2][0]
    assert results[0][1] != results[2][1]


def fake_library(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []

    class SentenceTransformer:
        max_seq_length = 8192

        def __init__(self, name: str, **kwargs: Any) -> None:
            calls.append((name, kwargs))

        def encode(self, texts: list[str], **kwargs: Any) -> np.ndarray[Any, Any]:
            calls.append((texts, self.max_seq_length, kwargs))
            return np.array([[len(text), 1.0] for text in texts])

    module = ModuleType("sentence_transformers")
    monkeypatch.setattr(module, "SentenceTransformer", SentenceTransformer, raising=False)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    return calls


def test_sentence_transformers_reads_the_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_library(monkeypatch)
    corpus = make_corpus(tmp_path / "corpus")
    chosen = config(
        items={"encoder": "sentence_transformers"},
        users={"encoder": "sentence_transformers", "max_history": 1},
        text_model={"name": "some/model", "revision": "abc", "max_length": 64, "batch_size": 5},
    )
    result = embed(chosen, corpus, tmp_path / "embeddings")
    assert calls[0] == ("some/model", {"revision": "abc", "device": None})
    assert len(calls) == 3  # one model for both sides
    assert calls[1][0] == item_texts(corpus).to_list()
    assert calls[2][0] == user_texts(corpus, max_history=1).to_list()
    assert calls[1][1] == 64
    assert calls[1][2]["batch_size"] == 5
    assert calls[1][2]["normalize_embeddings"] is True
    np.testing.assert_array_equal(result.items[:, 0], item_texts(corpus).str.len_chars())


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    corpus = make_corpus(tmp_path / "corpus")
    with pytest.raises(ValueError, match=r"pip install 'dasrec\[text\]'"):
        embed(config(items={"encoder": "sentence_transformers"}), corpus, tmp_path / "out")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"items": {"encoder": "file"}}, "embed.items: file is required"),
        ({"items": {"file": "x.npy"}}, "file has no effect with encoder 'lsa'"),
        ({"users": {"encoder": "history_mean", "pca_dim": 2}}, "pca_dim has no effect"),
        ({"items": {"encoder": "bert"}}, "expected 'lsa', 'sentence_transformers', "),
    ],
)
def test_bad_configs_are_named(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**sections)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"items": {"columns": ["name"]}}, "embed.items.columns: no column 'name'"),
        ({"users": {"columns": ["job"]}}, "embed.users.columns: no column 'job'"),
        ({"lsa": {"dim": 99}}, "embed.lsa.dim: 99 is more than 20 items"),
        ({"items": {"pca_dim": 9}}, "embed.items.pca_dim: 9 is more than"),
        ({"items": {"encoder": "file", "file": "none.npy"}}, "none.npy: no such file"),
        ({"items": {"encoder": "file", "file": "flat.npy"}}, r"flat.npy: .*got shape \(25,\)"),
        ({"items": {"encoder": "file", "file": "text.npy"}}, "text.npy: not a .npy matrix"),
        ({"items": {"encoder": "file", "file": "short.npy"}}, r"short.npy: has rows 0\.\.3, but"),
        ({"items": {"encoder": "file", "file": "nan.npy"}}, "nan.npy: row 15 holds a value"),
    ],
)
def test_bad_inputs_are_named_and_nothing_is_written(
    tmp_path: Path, sections: dict[str, Any], message: str
) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    assert 15 in corpus.items["source_row"]
    np.save(tmp_path / "flat.npy", np.ones(25))
    np.save(tmp_path / "short.npy", np.ones((4, 2)))
    matrix = np.ones((25, 2))
    matrix[15, 1] = np.nan
    np.save(tmp_path / "nan.npy", matrix)
    (tmp_path / "text.npy").write_text("hello")
    with pytest.raises(ValueError, match=message):
        embed(config(**sections), corpus, tmp_path / "out", data_dir=tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_corpus_without_source_row_is_refused_by_file(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    np.save(tmp_path / "v.npy", np.ones((25, 2)))
    chosen = config(items={"encoder": "file", "file": "v.npy"})
    bare = dataclasses.replace(corpus)
    bare.__dict__["items"] = corpus.items.drop("source_row")
    with pytest.raises(ValueError, match="no column 'source_row'"):
        embed(chosen, bare, tmp_path / "out", data_dir=tmp_path)
