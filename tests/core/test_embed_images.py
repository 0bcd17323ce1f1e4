"""Encoder `images`, with a tiny random CLIP made here and with a stand-in for the library."""

import json
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.core.small_corpus import NUM_ITEMS, config, make_corpus

from dasrec.core import Corpus
from dasrec.core.embed import embed, embed_inputs
from dasrec.core.images import ImagesConfig, image_files

SIDE = 16
COLOURS = [(200, 10, 10), (10, 200, 10), (10, 10, 200)]


def pictures(folder: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    folder.mkdir(parents=True)
    for number, colour in enumerate(COLOURS):
        picture = image.new("RGB", (20, 24), colour)
        picture.paste((255, 255, 255), (0, 0, 10, 4 + number))
        picture.save(folder / f"{number}.png")


def corpus_with_pictures(path: Path, values: list[Any] | None = None) -> Corpus:
    """Items 0, 1, 2, 0, 1, ... of three pictures; items 6 and 7 have none."""
    paths = values or [f"{i % 3}.png" for i in range(NUM_ITEMS)]
    if values is None:
        paths[6:8] = ["gone.png", None]

    def change(data: dict[str, Any]) -> None:
        data["items"] = data["items"].with_columns(image=pl.Series(paths))

    return make_corpus(path, change)


def save_tiny_clip(path: Path) -> None:
    """A sentence-transformers CLIP of random weights."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from transformers import (
        CLIPConfig,
        CLIPImageProcessorPil,
        CLIPModel,
        CLIPProcessor,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    raw = path.with_name("raw_clip")
    tower = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "red": 3}
    settings = CLIPConfig(
        text_config={**tower, "vocab_size": 4, "bos_token_id": 1, "eos_token_id": 2},
        vision_config={**tower, "image_size": SIDE, "patch_size": 8},
        projection_dim=6,
    )
    CLIPModel(settings).save_pretrained(raw)
    document = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<pad>"},
    }
    raw.joinpath("words.json").write_text(json.dumps(document))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(raw / "words.json"),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
    )
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    CLIPProcessor(processor, tokenizer).save_pretrained(raw)
    SentenceTransformer(modules=[Transformer(str(raw))]).save(str(path))


@pytest.mark.filterwarnings("ignore")  # the libraries' own
def test_a_tiny_clip_reads_the_pictures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    pictures(tmp_path / "data" / "shots")
    save_tiny_clip(tmp_path / "clip")
    corpus = corpus_with_pictures(tmp_path / "corpus")
    chosen = config(
        more={"image": {"encoder": "images"}},
        images={"name": str(tmp_path / "clip"), "folder": "shots", "batch_size": 2},
    )
    with caplog.at_level(logging.WARNING, logger="dasrec"):
        made = embed(chosen, corpus, tmp_path / "e", data_dir=tmp_path / "data")
    vectors = made.modalities["image"]
    assert vectors.shape == (NUM_ITEMS, 6)
    assert "2 of 20 items without a picture" in caplog.text
    np.testing.assert_array_equal(vectors[6:8], 0)

    import torch
    from PIL import Image
    from transformers import CLIPImageProcessorPil, CLIPModel

    model = CLIPModel.from_pretrained(tmp_path / "raw_clip")
    processor = CLIPImageProcessorPil.from_pretrained(tmp_path / "raw_clip")
    for item in (0, 1, 2, 3, 4, 5, 8, NUM_ITEMS - 1):
        picture = Image.open(tmp_path / "data" / "shots" / f"{item % 3}.png")
        with torch.no_grad():
            pixels = processor(picture, return_tensors="pt")["pixel_values"]
            hidden = model.vision_model(pixels).pooler_output
            want = model.visual_projection(hidden)[0].numpy()
        np.testing.assert_allclose(vectors[item], want / np.linalg.norm(want), atol=1e-5)
    assert not np.allclose(vectors[0], vectors[1], atol=1e-3)


def test_every_picture_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    class SentenceTransformer:
        def __init__(self, name: str, **kwargs: Any) -> None:
            assert (name, kwargs) == ("some/clip", {"revision": "abc", "device": None})

        def encode(self, images: list[Any], **kwargs: Any) -> np.ndarray[Any, Any]:
            calls.append(len(images))
            return np.array([image.getpixel((15, 20)) for image in images])

    module = ModuleType("sentence_transformers")
    monkeypatch.setattr(module, "SentenceTransformer", SentenceTransformer, raising=False)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    monkeypatch.setattr("dasrec.core.images.BLOCK", 2)
    pictures(tmp_path / "data")
    corpus = corpus_with_pictures(tmp_path / "corpus")
    chosen = config(items={"encoder": "images"}, images={"name": "some/clip", "revision": "abc"})
    made = embed(chosen, corpus, tmp_path / "e", data_dir=tmp_path / "data")
    assert calls == [2, 1]
    for item in range(NUM_ITEMS):
        want = (0, 0, 0) if item in (6, 7) else COLOURS[item % 3]
        np.testing.assert_array_equal(made.items[item], want)
    assert made.users.shape[1] == 4  # their texts are in the space of the items' words


@pytest.mark.parametrize(
    "values",
    [
        ["https://images.example/a/b/0.png"] * NUM_ITEMS,
        ["http://images.example/0.png?size=big#x"] * NUM_ITEMS,
        [["https://images.example/0.png", "x"], []] * (NUM_ITEMS // 2),
    ],
)
def test_a_url_stands_for_a_local_file(tmp_path: Path, values: list[Any]) -> None:
    (tmp_path / "shots").mkdir()
    (tmp_path / "shots" / "0.png").write_bytes(b"x")
    corpus = corpus_with_pictures(tmp_path / "corpus", values)
    files = image_files(ImagesConfig(folder="shots"), corpus, tmp_path, "here")
    assert files[0] == tmp_path / "shots" / "0.png"
    assert files[1] is None or values[1]


def test_changed_pictures_change_the_inputs(tmp_path: Path) -> None:
    corpus = corpus_with_pictures(tmp_path / "corpus")
    chosen = config(more={"image": {"encoder": "images"}})
    prints = []
    for name, content in (("a", b"x"), ("b", b"x"), ("c", b"y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(content)
        found = embed_inputs(chosen, corpus, tmp_path / name)
        prints.append(found["more.image_images"].fingerprint)
    assert prints[0] == prints[1]  # where the folder lies does not matter
    assert prints[0] != prints[2]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"images": {"folder": "elsewhere"}}, "none of the 20 items has a picture"),
        ({"images": {"column": "photo"}}, "embed.images.column: no column 'photo'"),
        ({"images": {"column": "price"}}, "'price' holds Float64, expected paths"),
    ],
)
def test_bad_pictures_are_named(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    corpus = corpus_with_pictures(tmp_path / "corpus")
    chosen = config(more={"image": {"encoder": "images"}}, **sections)
    with pytest.raises(ValueError, match=message):
        embed(chosen, corpus, tmp_path / "out", data_dir=tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_picture_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("PIL.Image", reason="pillow is not installed")
    module = ModuleType("sentence_transformers")
    nothing = SimpleNamespace(encode=lambda *_, **__: None)
    monkeypatch.setattr(module, "SentenceTransformer", lambda *_, **__: nothing, raising=False)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    (tmp_path / "0.png").write_text("hello")
    corpus = corpus_with_pictures(tmp_path / "corpus")
    chosen = config(more={"image": {"encoder": "images"}})
    with pytest.raises(ValueError, match=r"0.png: not a readable picture"):
        embed(chosen, corpus, tmp_path / "out", data_dir=tmp_path)


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    (tmp_path / "0.png").write_text("hello")
    corpus = corpus_with_pictures(tmp_path / "corpus")
    chosen = config(more={"image": {"encoder": "images"}})
    with pytest.raises(ValueError, match=r"pip install 'dasrec\[images\]'"):
        embed(chosen, corpus, tmp_path / "out", data_dir=tmp_path)
