"""Vocabularies, lookup tables, histories, and the gradient of every feature."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dasrec.core import Corpus, SemanticIds, SidTable
from dasrec.core.corpus import SPLITS
from dasrec.ranking import CtrModel, FeatureConfig, ModelConfig, NegativesConfig, build_schema
from dasrec.ranking.features.fit import learned_levels
from dasrec.ranking.negatives import rows_of
from dasrec.ranking.row_tensors import to_tensors
from dasrec.ranking.rows import HistorySource, impression_rows
from dasrec.ranking.tables import build_tables, cross_rows, hash_collisions, prefix_keys

CPU = torch.device("cpu")


def test_vocabularies_come_from_training_rows(
    small: Any, make_corpus: Callable[..., Corpus]
) -> None:
    user, item, time, label, split = small.log
    config = FeatureConfig()
    schema = build_schema(config, small.corpus, impression_rows(small.corpus, "train"), small.sids)
    counts = np.bincount(item[split == SPLITS["train"]], minlength=small.sizes[1])
    assert schema.item_vocabulary == tuple(np.flatnonzero(counts >= config.min_count))
    # Other items and labels after the training time change nothing that is learned.
    changed = np.where(split > 0, (item + 7) % small.sizes[1], item)
    other = make_corpus(user, changed, time, label, split, small.sizes, impressions=True)
    assert build_schema(config, other, impression_rows(other, "train"), small.sids) == schema


def test_disambiguation_level_is_not_a_feature() -> None:
    codes, vectors = np.zeros((3, 4), np.uint16), np.zeros((3, 2), np.float32)
    books = tuple(np.zeros((k, 2), np.float32) for k in (6, 5, 4))
    assert learned_levels(SidTable(codes, (6, 5, 4, 3), vectors, books)) == (6, 5, 4)


def test_histories_equal_the_corpus_and_never_hold_later_events(small: Any) -> None:
    corpus, source = small.corpus, HistorySource(small.corpus, 8, CPU)
    impressions = corpus.impressions
    picked = np.arange(0, len(impressions.label), 3)
    batch = source.batch(
        *(
            torch.from_numpy(np.asarray(column[picked], np.int64))
            for column in (impressions.user_idx, impressions.item_idx, impressions.history_end)
        )
    )
    expected = corpus.impression_histories(picked, 8)
    user, item, time, label, _ = small.log
    for row, impression in enumerate(picked):
        history = batch.history_BT[row]
        got = (history[history > 0] - 1).tolist()
        slot = slice(expected.starts[row], expected.starts[row + 1])
        assert got == expected.values[slot].tolist()
        earlier = (user == user[impression]) & (time < time[impression]) & (label > 0)
        assert got == item[earlier][-8:].tolist()


def test_later_events_change_no_score(small: Any, make_corpus: Callable[..., Corpus]) -> None:
    user, item, time, label, split = small.log
    cut = 15
    later = time >= cut
    flipped = np.where(later, 1 - label, label)
    moved = np.where(later, (item * 7 + 3) % small.sizes[1], item)
    other = make_corpus(user, moved, time, flipped, split, small.sizes, impressions=True)
    scored = []
    for corpus in (small.corpus, other):
        rows = np.flatnonzero(time <= cut)
        torch.manual_seed(0)
        impressions = corpus.impressions
        assert impressions is not None
        model = build_model(small, FeatureConfig())
        batch = HistorySource(corpus, 50, CPU).batch(
            torch.from_numpy(user[rows]),
            torch.from_numpy(item[rows]),
            torch.from_numpy(impressions.history_end[rows]),
        )
        scored.append(model.eval()(batch))
    torch.testing.assert_close(scored[0], scored[1])


def build_model(world: Any, config: FeatureConfig, sids: SemanticIds | None = None) -> CtrModel:
    sids = sids or world.sids
    train = rows_of(NegativesConfig(), world.corpus, "train", 0)
    schema = build_schema(config, world.corpus, train, sids)
    tables = build_tables(config, schema, world.corpus, sids)
    return CtrModel(ModelConfig(embedding_dim=4, dropout=0.0), config, schema, tables)


def test_match_counts_equal_brute_force(small: Any) -> None:
    model = build_model(small, FeatureConfig(max_history=12))
    rows = to_tensors(impression_rows(small.corpus, "test"), model.schema, CPU)
    batch = HistorySource(small.corpus, 12, CPU).batch(rows.user_M, rows.item_M, rows.end_M)
    inputs = model.embedding(batch)
    counts = inputs.places.sum(inputs.same_PL)
    codes = small.codes
    for row in range(len(rows.user_M)):
        target = codes[rows.item_M[row]]
        history = codes[(batch.history_BT[row][batch.history_BT[row] > 0] - 1).numpy()]
        for length in (1, 2, 3):
            brute = sum((item[:length] == target[:length]).all() for item in history)
            assert counts[row, length - 1] == brute
    assert counts.sum(0).min() > 0


@pytest.mark.parametrize(
    "off",
    [
        "ids",
        "user_sids",
        "sid_levels",
        "sid_prefixes",
        "sid_cross",
        "sid_match",
        "sid_history",
        "sid_similarity",
    ],
)
def test_every_table_that_is_on_gets_a_gradient(small: Any, off: str) -> None:
    values: dict[str, Any] = {"hash_size": 512, "sid_cross": 2}
    everything = dict(build_model(small, FeatureConfig(**values)).named_parameters())
    switch = 0 if off == "sid_cross" else False
    model = build_model(small, FeatureConfig(**values | {off: switch}))
    rows = to_tensors(impression_rows(small.corpus, "train"), model.schema, CPU)
    batch = HistorySource(small.corpus, 50, CPU).batch(rows.user_M, rows.item_M, rows.end_M)
    torch.nn.functional.binary_cross_entropy_with_logits(model(batch), rows.label_M).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    smaller = sum(p.numel() for p in model.parameters())
    assert smaller < sum(p.numel() for p in everything.values())


def test_model_without_semantic_ids_has_no_table_for_them(small: Any) -> None:
    config = FeatureConfig()
    train = impression_rows(small.corpus, "train")
    schema = build_schema(config, small.corpus, train, None)
    tables = build_tables(config, schema, small.corpus, None)
    model = CtrModel(ModelConfig(), config, schema, tables)
    names = " ".join(dict(model.named_parameters()))
    assert not any(word in names for word in ("levels", "prefixes", "embedding.cross", "same"))


def test_prefix_keys_and_hashes(small: Any) -> None:
    codes = small.codes.astype(np.int64)
    keys = prefix_keys(codes, (6, 5, 4))
    for length in (1, 2, 3):
        same = (codes[:, None, :length] == codes[None, :, :length]).all(2)
        assert ((keys[:, None, length - 1] == keys[None, :, length - 1]) == same).all()
    config = FeatureConfig(hash_size=64)
    train = impression_rows(small.corpus, "train")
    schema = build_schema(config, small.corpus, train, small.sids)
    tables = build_tables(config, schema, small.corpus, small.sids)
    assert tables.items.prefixes[0].tolist() == [0, 0, 0]  # padding
    assert tables.items.prefixes[1:].min() >= 1
    assert tables.items.prefixes.max() < 64
    assert hash_collisions(tables.items)[2] > 1
    known = tables.users.hashes[:-1]  # the last row is an unknown user
    crosses = cross_rows(known[:, None], tables.items.hashes[None, 1:], 1 << 20)
    assert crosses.min() >= 1
    assert crosses.max() < 1 << 20
    pairs = 6 * 6  # first codes of both sides
    assert len(crosses[..., 0].unique()) == pairs
