"""Rows meet the SID that their user had at their moment."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from dasrec.core import SemanticIds, load_sids, write_artifact
from dasrec.core.config import build_config
from dasrec.core.semantic_ids import UserMoments, save_sids_payload
from dasrec.ranking import Ranker, RankingConfig, load_ranker, train_ranker
from dasrec.ranking.compare.shuffled import write_shuffled
from dasrec.ranking.export.export import export_ranker
from dasrec.ranking.rows import impression_rows
from dasrec.ranking.score import HistoryEnds


@pytest.fixture(scope="module")
def moving(small: Any, tmp_path_factory: pytest.TempPathFactory) -> SemanticIds:
    """The small world's SIDs, with random ones for every moment."""
    corpus, sids = small.corpus, small.sids
    rng = np.random.default_rng(3)
    codes = np.unique(rng.integers(0, (6, 5, 4), (40, 3)), axis=0).astype(np.uint16)
    vectors = rng.normal(size=(len(codes), 8)).astype(np.float32)
    row = rng.integers(0, len(codes), len(corpus.item_idx) + corpus.num_users)
    moments = UserMoments(codes, vectors, row.astype(np.int32))
    path = tmp_path_factory.mktemp("moving") / "sids"
    write_artifact(
        path,
        "semantic_ids",
        {},
        {"corpus": corpus.manifest},
        lambda scratch: save_sids_payload(scratch, sids.items, sids.users, (), moments),
    )
    return load_sids(path, corpus.manifest)


def trained(world: Any, sids: SemanticIds, out: Path, **features: Any) -> Ranker:
    values = {
        "epochs": 1,
        "model": {"embedding_dim": 4, "hidden_dims": [8]},
        "features": {"hash_size": 64, "max_history": 10, **features},
    }
    train_ranker(build_config(RankingConfig, values, "test"), world.corpus, sids, out)
    return load_ranker(out, world.corpus, sids)


def test_rows_have_the_sid_of_their_moment(small: Any, moving: SemanticIds, tmp_path: Path) -> None:
    ranker, moments = trained(small, moving, tmp_path / "r"), moving.user_moments
    assert moments is not None
    rows = impression_rows(small.corpus, "test")
    columns = (rows.user_idx, rows.item_idx, rows.history_end)
    batch = ranker.source.batch(*(torch.from_numpy(np.array(c, np.int64)) for c in columns))
    levels = ranker.tables.users.levels.numpy()
    offsets = np.array([0, 6, 11])
    for n, (user, end) in enumerate(zip(rows.user_idx, rows.history_end, strict=True)):
        codes = moments.codes[moments.row[end + user]].astype(int)
        np.testing.assert_array_equal(levels[batch.user_sid_B[n]], 1 + offsets + codes)
    # the logit follows the moment's SID and no other
    changed = dataclasses.replace(moments, row=np.roll(moments.row, 1))
    other = dataclasses.replace(moving, user_moments=changed)
    moved = load_ranker(tmp_path / "r", small.corpus, other).score_rows(rows)
    assert np.abs(moved - ranker.score_rows(rows)).max() > 1e-4


def test_an_unknown_user_has_no_sid(small: Any, moving: SemanticIds, tmp_path: Path) -> None:
    ranker, corpus = trained(small, moving, tmp_path / "r"), small.corpus
    newest = ranker.source.newest_user_sids()
    ends = HistoryEnds(corpus).latest(np.arange(corpus.num_users + 1))
    assert moving.user_moments is not None
    row = moving.user_moments.row[ends[:-1] + np.arange(corpus.num_users)]
    np.testing.assert_array_equal(newest[:-1].cpu(), row)
    assert not ranker.tables.users.levels[newest[-1]].any()
    user = np.full(3, corpus.num_users)
    assert np.isfinite(ranker.score(user, np.arange(3), ends[user])).all()


def test_switched_off_every_row_has_todays_sid(
    small: Any, moving: SemanticIds, tmp_path: Path
) -> None:
    rows = impression_rows(small.corpus, "test")
    one = trained(small, moving, tmp_path / "one", sid_moments=False).score_rows(rows)
    two = trained(small, small.sids, tmp_path / "two").score_rows(rows)
    np.testing.assert_array_equal(one, two)


def test_exported_graph_takes_the_newest_sids(
    small: Any, moving: SemanticIds, tmp_path: Path
) -> None:
    ranker, corpus = trained(small, moving, tmp_path / "r"), small.corpus
    export_ranker(ranker, corpus, tmp_path / "out", onnx=False)
    graph = torch.export.load(tmp_path / "out" / "model.pt2").module()
    user = np.arange(corpus.num_users)
    item, end = user % corpus.num_items, HistoryEnds(corpus).latest(user)
    batch = ranker.source.batch(*(torch.from_numpy(np.asarray(c)) for c in (user, item, end)))
    logit = graph(batch.user_B, batch.item_B, batch.history_BT)[0].detach().numpy()
    np.testing.assert_allclose(logit, ranker.score(user, item, end), atol=1e-5)


def test_sids_without_moments_or_of_another_log_are_refused(
    small: Any, moving: SemanticIds, tmp_path: Path
) -> None:
    trained(small, moving, tmp_path / "r")
    without = dataclasses.replace(moving, user_moments=None)
    with pytest.raises(ValueError, match=r"assign them with assign\.user_moments"):
        load_ranker(tmp_path / "r", small.corpus, without)
    assert moving.user_moments is not None
    short = dataclasses.replace(moving.user_moments, row=moving.user_moments.row[:-1])
    with pytest.raises(ValueError, match="assign them again from this corpus"):
        trained(small, dataclasses.replace(moving, user_moments=short), tmp_path / "s")


def test_shuffled_moments_are_those_of_another_user(
    small: Any, moving: SemanticIds, tmp_path: Path
) -> None:
    write_shuffled(moving, small.corpus, tmp_path / "s", seed=1)
    shuffled = load_sids(tmp_path / "s", small.corpus.manifest).user_moments
    assert shuffled is not None
    assert moving.user_moments is not None
    ends = np.asarray(small.corpus.user_start) + np.arange(small.corpus.num_users + 1)
    real, given = (np.split(m.row, ends[1:-1]) for m in (moving.user_moments, shuffled))
    assert (shuffled.row != moving.user_moments.row).mean() > 0.5

    def could_be(own: np.ndarray, other: np.ndarray) -> bool:
        padded = [*other, *[other[-1]] * len(own)]
        return list(own) == padded[: len(own)]

    fits = np.array([[could_be(own, other) for other in real] for own in given])
    taken = linear_sum_assignment(fits, maximize=True)
    assert fits[taken].all()  # every user's are given to exactly one


def test_todays_sids_are_told_of_unless_they_are_meant(
    small: Any, moving: SemanticIds, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = "every row has its user's SID of today"
    trained(small, moving, tmp_path / "moments")
    trained(small, small.sids, tmp_path / "meant", sid_moments=False)
    trained(small, small.sids, tmp_path / "items", user_sids=False)
    assert told not in caplog.text
    trained(small, small.sids, tmp_path / "today")
    assert told in caplog.text
