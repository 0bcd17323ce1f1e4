"""User SIDs over time: those of the histories up to each event, and of nothing later."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dasrec.core import Corpus, Embeddings, build_config, load_embeddings, load_sids
from dasrec.core.embed import EmbedConfig, embed
from dasrec.core.semantic_ids import UserMoments
from dasrec.tokenizer import AssignConfig, DasConfig, assign, train_tokenizer

MakeWorld = Callable[..., tuple[Corpus, Embeddings]]
TOKENIZER = DasConfig(
    level_sizes=(8, 8), code_dim=8, hidden=(32,), epochs=3, continuous_epochs=1, batch_size=64
)


def embedded(make_world: MakeWorld, path: Path, users: str, seed: int = 0) -> tuple[Corpus, Path]:
    corpus, _ = make_world(path.name, held_out_seed=seed)
    values = {
        "items": {"encoder": "lsa", "columns": ["category"]},
        "users": {"encoder": users, "columns": ["user_id"]}
        if users == "lsa"
        else {"encoder": users},
        "lsa": {"dim": 3, "min_df": 1},
    }
    embed(build_config(EmbedConfig, values, "embed"), corpus, path / "e")
    return corpus, path / "e"


def moments_of(make_world: MakeWorld, path: Path, seed: int) -> tuple[Corpus, UserMoments]:
    corpus, where = embedded(make_world, path, "history_mean", seed)
    embeddings = load_embeddings(where, corpus)
    train_tokenizer(TOKENIZER, corpus, embeddings, path / "t")
    config = AssignConfig(collisions="share", user_moments=True)
    sids = assign(config, path / "t", corpus, embeddings, path / "sids")
    assert sids.users is not None
    moments = load_sids(path / "sids", corpus.manifest).user_moments
    assert moments is not None
    assert len(np.unique(moments.codes, axis=0)) == len(moments.codes)
    # with all training interactions known, and no more, it is the user's SID
    train = np.bincount(corpus.user_idx[corpus.train_rows], minlength=corpus.num_users)
    row = moments.row[corpus.user_start[:-1] + train + np.arange(corpus.num_users)]
    np.testing.assert_array_equal(moments.codes[row], sids.users.codes)
    np.testing.assert_allclose(moments.vectors[row], sids.users.vectors, atol=1e-6)
    return corpus, moments


def test_moments_see_what_came_before_and_nothing_later(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    corpus, one = moments_of(make_world, tmp_path / "one", seed=0)
    other, two = moments_of(make_world, tmp_path / "two", seed=9)
    changed = corpus.item_idx != other.item_idx
    assert changed.any()
    assert (corpus.split[changed] > 0).all()
    for user in range(corpus.num_users):
        start, end = corpus.user_start[user : user + 2]
        until = start + int(changed[start:end].argmax()) if changed[start:end].any() else end
        known = slice(start + user, until + user + 1)  # histories that end before the change
        np.testing.assert_array_equal(one.codes[one.row[known]], two.codes[two.row[known]])
    assert (one.codes[one.row] != two.codes[two.row]).any()


def test_users_without_histories_are_refused(make_world: MakeWorld, tmp_path: Path) -> None:
    corpus, where = embedded(make_world, tmp_path / "w", "lsa")
    embeddings = load_embeddings(where, corpus)
    train_tokenizer(TOKENIZER, corpus, embeddings, tmp_path / "t")
    config = AssignConfig(user_moments=True)
    with pytest.raises(ValueError, match=r"embed\.users\.encoder is 'lsa'; set it to history_mean"):
        assign(config, tmp_path / "t", corpus, embeddings, tmp_path / "sids")
    assert not (tmp_path / "sids").exists()
