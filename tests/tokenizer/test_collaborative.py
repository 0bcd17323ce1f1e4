from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dasrec.core import Corpus, Embeddings
from dasrec.tokenizer import DasConfig, IcdmConfig, TigerConfig, train_tokenizer
from dasrec.tokenizer.collaborative import collaborative_vectors
from dasrec.tokenizer.train import build_objective

MakeWorld = Callable[..., tuple[Corpus, Embeddings]]
SMALL: dict[str, Any] = {"level_sizes": (4, 4), "code_dim": 8, "hidden": (16,), "batch_size": 64}


@pytest.mark.parametrize("vectors", ["true", "fused"])
def test_vectors_are_those_of_the_trained_model(
    vectors: str, make_world: MakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, embeddings = make_world()
    config = DasConfig(**SMALL, epochs=2)
    trained: list[Any] = []
    from dasrec.tokenizer import train

    def keep(*arguments: object) -> object:
        trained.append(build_objective(*arguments))  # type: ignore[arg-type]
        return trained[0]

    monkeypatch.setattr(train, "build_objective", keep)
    train_tokenizer(config, corpus, embeddings, tmp_path / "das")
    found = collaborative_vectors(tmp_path / "das", corpus, vectors)  # type: ignore[arg-type]
    icdm = trained[0].icdm
    name = "true_BD" if vectors == "true" else "fused_BD"
    for tower, rows in ((icdm.users, found.users_UD), (icdm.items, found.items_ID)):
        with torch.inference_mode():
            factors = getattr(tower(torch.arange(len(rows))), name).numpy()
        norm = np.linalg.norm(factors, axis=1, keepdims=True)
        np.testing.assert_allclose(rows, factors / norm, atol=1e-6)
    assert len(found.users_UD) == corpus.num_users
    assert len(found.items_ID) == corpus.num_items


def test_held_out_events_do_not_move_them(make_world: MakeWorld, tmp_path: Path) -> None:
    found = []
    for seed in (0, 1):
        corpus, embeddings = make_world(f"w{seed}", held_out_seed=seed)
        path = tmp_path / f"das{seed}"
        train_tokenizer(DasConfig(**SMALL, epochs=2), corpus, embeddings, path)
        found.append(collaborative_vectors(path, corpus))
    assert (found[0].users_UD == found[1].users_UD).all()
    assert (found[0].items_ID == found[1].items_ID).all()


def test_a_user_is_nearest_to_items_of_their_taste(make_world: MakeWorld, tmp_path: Path) -> None:
    corpus, embeddings = make_world()
    config = DasConfig(**SMALL, epochs=30, continuous_epochs=20)
    train_tokenizer(config, corpus, embeddings, tmp_path / "das")
    found = collaborative_vectors(tmp_path / "das", corpus)
    scores = found.users_UD @ found.items_ID.T
    clicked = np.zeros(scores.shape, bool)
    rows = corpus.train_rows
    clicked[corpus.user_idx[rows], corpus.item_idx[rows]] = True
    taste = np.stack([clicked[:, c::4].sum(1) for c in range(4)], 1).argmax(1)
    same = np.arange(corpus.num_items) % 4 == taste[:, None]
    new = ~clicked & (corpus.train_item_count > 0)
    assert scores[same & new].mean() > scores[~same & new].mean() + 0.2


def test_tokenizers_without_a_collaborative_model_are_refused(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    corpus, embeddings = make_world()
    train_tokenizer(TigerConfig(**SMALL, epochs=2), corpus, embeddings, tmp_path / "tiger")
    with pytest.raises(ValueError, match="method 'tiger' have no collaborative model"):
        collaborative_vectors(tmp_path / "tiger", corpus)
    plain = DasConfig(**SMALL, epochs=2, alpha=0.0, beta=0.0, icdm=IcdmConfig())
    train_tokenizer(plain, corpus, embeddings, tmp_path / "plain")
    with pytest.raises(ValueError, match="trained without a collaborative model"):
        collaborative_vectors(tmp_path / "plain", corpus)
