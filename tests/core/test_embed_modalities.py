"""Several modalities per item, and the encoder `cooccurrence`."""

import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.core.small_corpus import NUM_ITEMS, NUM_USERS, config, make_corpus

from dasrec.core import Corpus, load_embeddings
from dasrec.core.artifacts import MANIFEST
from dasrec.core.cooccurrence import (
    CooccurrenceConfig,
    cooccurrence,
    pair_counts,
    shifted_ppmi,
)
from dasrec.core.embed import embed
from dasrec.core.encoders import normalise

COLD = NUM_ITEMS - 1


def dense_log(data: dict[str, Any]) -> None:
    """Long training histories; the last item is in none of them."""
    rng = np.random.default_rng(4)
    per_user = np.full(NUM_USERS, 14)
    user_idx = np.repeat(np.arange(NUM_USERS, dtype=np.int32), per_user)
    data["user_idx"] = user_idx
    data["item_idx"] = rng.integers(0, COLD, len(user_idx), dtype=np.int32)
    data["timestamp"] = np.arange(len(user_idx), dtype=np.int64)
    data["split"] = np.tile(np.array([0] * 12 + [1, 2], np.int8), NUM_USERS)
    data["item_idx"][data["split"] == 2] = COLD


def counted(corpus: Corpus, window: int) -> np.ndarray[Any, Any]:
    """Pair counts, event by event."""
    pairs: Counter[tuple[int, int]] = Counter()
    for user in range(NUM_USERS):
        rows = [r for r in range(len(corpus.user_idx)) if corpus.user_idx[r] == user]
        items = [int(corpus.item_idx[r]) for r in rows if corpus.split[r] == 0]
        for a, b in itertools.combinations(range(len(items)), 2):
            if b - a <= window and items[a] != items[b]:
                pairs[items[a], items[b]] += 1
                pairs[items[b], items[a]] += 1
    matrix = np.zeros((NUM_ITEMS, NUM_ITEMS))
    for (a, b), count in pairs.items():
        matrix[a, b] = count
    return matrix


def ppmi(counts: np.ndarray[Any, Any], negatives: int) -> np.ndarray[Any, Any]:
    matrix = np.zeros_like(counts)
    for a, b in zip(*np.nonzero(counts), strict=True):
        joint = counts[a, b] / counts.sum()
        alone = counts[a].sum() / counts.sum() * counts[b].sum() / counts.sum()
        matrix[a, b] = max(0.0, math.log(joint / alone) - math.log(negatives))
    return matrix


def test_cooccurrence_is_the_svd_of_shifted_ppmi(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", dense_log)
    want_counts = counted(corpus, 3)
    got_counts = pair_counts(corpus, 3)
    np.testing.assert_array_equal(got_counts.toarray(), want_counts)
    want = ppmi(want_counts, 2)
    np.testing.assert_allclose(shifted_ppmi(got_counts, 2).toarray(), want, atol=1e-12)
    got = cooccurrence(CooccurrenceConfig(dim=4, window=3, negatives=2), corpus, 0, "here")
    left, values, _ = np.linalg.svd(want)
    exact = normalise(left[:, :4] * np.sqrt(values[:4]))
    # components are unique up to sign, inner products entirely
    known = want.any(axis=1)
    np.testing.assert_allclose((got @ got.T)[known], (exact @ exact.T)[known], atol=1e-3)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got[~known], 0)


def test_modalities_keep_their_order_and_width(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", dense_log)
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(NUM_ITEMS + 5, 7)))
    more = {
        "title": {"encoder": "lsa", "columns": ["title"]},
        "image": {"encoder": "file", "file": "v.npy", "pca_dim": 3},
        "collaborative": {"encoder": "cooccurrence"},
    }
    chosen = config(modality="words", more=more, cooccurrence={"dim": 5})
    made = embed(chosen, corpus, tmp_path / "e", data_dir=tmp_path, seed=1)
    plain = embed(config(), corpus, tmp_path / "plain", seed=1)
    loaded = load_embeddings(tmp_path / "e", corpus)
    for one in (made, loaded):
        widths = {name: vectors.shape for name, vectors in one.modalities.items()}
        assert list(widths.items()) == [
            ("words", (NUM_ITEMS, 4)),
            ("title", (NUM_ITEMS, 4)),
            ("image", (NUM_ITEMS, 3)),
            ("collaborative", (NUM_ITEMS, 5)),
        ]
        assert one.modalities["words"] is one.items
    np.testing.assert_array_equal(made.items, plain.items)
    np.testing.assert_array_equal(made.users, plain.users)
    assert not np.array_equal(made.items, made.modalities["title"])
    assert set(made.manifest.inputs) == {"corpus", "more.image_file"}
    assert made.manifest.metrics["image_dim"] == 3


def test_an_artifact_from_before_modalities_is_one_text(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    embed(config(), corpus, tmp_path / "e")
    manifest = json.loads((tmp_path / "e" / MANIFEST).read_text())
    for name in ("modality", "more", "images", "cooccurrence"):
        del manifest["config"][name]
    (tmp_path / "e" / MANIFEST).write_text(json.dumps(manifest))
    loaded = load_embeddings(tmp_path / "e", corpus)
    assert list(loaded.modalities) == ["text"]
    assert loaded.modalities["text"] is loaded.items


def test_cooccurrence_sees_training_interactions_only(tmp_path: Path) -> None:
    def other_targets(data: dict[str, Any]) -> None:
        dense_log(data)
        later = data["split"] > 0
        data["item_idx"] = np.where(later, (data["item_idx"] + 7) % NUM_ITEMS, data["item_idx"])

    def other_training(data: dict[str, Any]) -> None:
        dense_log(data)
        swapped = data["item_idx"][[1, 0]]
        data["item_idx"][:2] = swapped
        data["item_idx"][3] = (data["item_idx"][3] + 1) % COLD

    chosen = config(more={"cf": {"encoder": "cooccurrence"}}, cooccurrence={"dim": 4})
    digests = []
    for name, change in (("a", dense_log), ("b", other_targets), ("c", other_training)):
        corpus = make_corpus(tmp_path / name, change)
        made = embed(chosen, corpus, tmp_path / f"e{name}")
        digests.append(made.manifest.files["items.cf.npy"])
        np.testing.assert_array_equal(made.modalities["cf"][COLD], 0)
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_cooccurrence_zero_rows_stay_zero_under_pca(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", dense_log)
    encoder = {"encoder": "cooccurrence", "pca_dim": 2}
    made = embed(config(items=encoder, cooccurrence={"dim": 4}), corpus, tmp_path / "e")
    assert made.items.shape == (NUM_ITEMS, 2)
    np.testing.assert_array_equal(made.items[COLD], 0)
    np.testing.assert_allclose(np.linalg.norm(made.items[:COLD], axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"modality": "Text"}, "modality: 'Text': use lower-case"),
        ({"more": {"a-b": {}}}, "more: 'a-b': use lower-case"),
        ({"more": {"text": {}}}, "more: 'text' is the name of the primary modality"),
        ({"more": {"x": {"encoder": "file"}}}, "more.x: file is required"),
        ({"more": {"x": {"encoder": "cf"}}}, "more.x.encoder: expected 'lsa'"),
    ],
)
def test_bad_names_are_named(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**sections)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"more": {"x": {"encoder": "file", "file": "no.npy"}}}, r"embed.more.x.file: .*no.npy"),
        ({"more": {"x": {"columns": ["job"]}}}, "no column 'job'"),
        ({"more": {"x": {"pca_dim": 9}}}, "embed.more.x.pca_dim: 9 is more than"),
        (
            {"more": {"x": {"encoder": "cooccurrence"}}, "cooccurrence": {"dim": 20}},
            "embed.more.x: embed.cooccurrence.dim is 20, but only",
        ),
    ],
)
def test_bad_inputs_are_named_and_nothing_is_written(
    tmp_path: Path, sections: dict[str, Any], message: str
) -> None:
    corpus = make_corpus(tmp_path / "corpus", dense_log)
    with pytest.raises(ValueError, match=message):
        embed(config(**sections), corpus, tmp_path / "out", data_dir=tmp_path)
    assert not (tmp_path / "out").exists()
