import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from dasrec.core import Corpus, Embeddings
from dasrec.tokenizer.pairs import STRETCH, PairSampler, plain_batches
from dasrec.tokenizer.statistics import popularity_statistics

MakeWorld = Callable[..., tuple[Corpus, Embeddings]]


@pytest.fixture
def corpus(make_world: MakeWorld) -> Corpus:
    return make_world()[0]


def train_clicks(corpus: Corpus) -> set[tuple[int, int]]:
    return {
        (int(u), int(i))
        for u, i, s in zip(corpus.user_idx, corpus.item_idx, corpus.split, strict=True)
        if s == 0
    }


def test_pairs_are_what_they_claim(corpus: Corpus) -> None:
    clicks = train_clicks(corpus)
    pairs = PairSampler(corpus, window=2, damping=0).epoch(np.random.default_rng(0))
    assert {(u, i) for u, i in zip(pairs.user_N, pairs.item_N, strict=True)} == clicks
    sequences = {
        u: corpus.train_sequences.values[a:b].tolist()
        for u, (a, b) in enumerate(
            zip(corpus.train_sequences.starts, corpus.train_sequences.starts[1:], strict=False)
        )
    }
    has_user = has_item = 0
    for u, i, other_user, other_item in zip(*pairs[:4], strict=True):
        clickers = {v for v, j in clicks if j == i} - {u}
        assert (other_user in clickers) if other_user >= 0 else not clickers
        has_user += other_user >= 0
        if other_item >= 0:
            at = sequences[u].index(i)
            near = sequences[u][max(0, at - 2) : at] + sequences[u][at + 1 : at + 3]
            assert other_item in near
            has_item += 1
    assert has_user > 0.8 * len(pairs.user_N)
    assert has_item == len(pairs.user_N)  # sequences of six different items


def test_partners_are_uniform_over_the_other_clickers(corpus: Corpus) -> None:
    sampler = PairSampler(corpus, window=10, damping=0)
    item = int(np.argmax(corpus.train_item_count))
    clickers = np.array([u for u, i in train_clicks(corpus) if i == item])
    drawn = np.zeros(corpus.num_users)
    for seed in range(300):
        pairs = sampler.epoch(np.random.default_rng(seed))
        rows = (pairs.item_N == item) & (pairs.user_N == clickers[0])
        drawn[pairs.partner_user_N[rows]] += 1
    expected = 300 / (len(clickers) - 1)
    assert drawn.sum() == 300
    assert drawn[clickers[0]] == 0
    others = drawn[clickers[1:]]
    assert (others > 0).all()
    assert ((others - expected) ** 2 / expected).sum() < 2 * len(clickers)  # chi-square


def test_damping_thins_popular_items_only(corpus: Corpus) -> None:
    count = corpus.train_item_count
    kept: dict[float, np.ndarray] = {}
    for damping in (0.0, 1.0):
        sampler = PairSampler(corpus, window=10, damping=damping)
        share = np.zeros(corpus.num_items)
        for seed in range(50):
            pairs = sampler.epoch(np.random.default_rng(seed))
            share += np.bincount(
                pairs.item_N[pairs.partner_user_N >= 0], minlength=corpus.num_items
            )
        kept[damping] = share / np.maximum(50 * count, 1)
    median = np.median(count[corpus.item_idx[corpus.train_rows]])
    top, rare = int(np.argmax(count)), (count > 1) & (count <= median)
    assert kept[1.0][top] == pytest.approx(median / count[top], abs=0.08)
    np.testing.assert_allclose(kept[1.0][rare], 1, atol=1e-9)
    np.testing.assert_allclose(kept[0.0][count > 1], 1, atol=1e-9)


def test_batches_hold_every_pair_and_the_true_click_matrix(corpus: Corpus) -> None:
    clicks = train_clicks(corpus)
    sampler = PairSampler(corpus, window=10, damping=0.5)
    pairs = sampler.epoch(np.random.default_rng(0))
    seen = []
    for batch in sampler.batches(pairs, 50, np.random.default_rng(1)):
        user, item = batch.users[batch.click_users_B], batch.items[batch.click_items_B]
        seen += list(zip(user.tolist(), item.tolist(), strict=True))
        size = len(np.unique(user))
        assert abs(len(user) - 50) <= STRETCH
        expected = [[(u, i) in clicks for i in batch.items] for u in batch.users[:size]]
        assert batch.clicked_UI.tolist() == expected
        assert len(np.unique(batch.users)) == len(batch.users)
        assert (batch.users[batch.user_pairs[0]] != batch.users[batch.user_pairs[1]]).all()
        assert (batch.items[batch.item_pairs[0]] != batch.items[batch.item_pairs[1]]).all()
        for anchor, other in batch.user_pairs.T:  # clickers of one item
            both = {i for u, i in clicks if u == batch.users[anchor]}
            assert both & {i for u, i in clicks if u == batch.users[other]}
        for anchor, other in batch.item_pairs.T:
            both = {u for u, i in clicks if i == batch.items[anchor]}
            assert both & {u for u, i in clicks if i == batch.items[other]}
        for kind, limit in ((batch.user_pairs, size), (batch.item_pairs, len(batch.items))):
            assert len(np.unique(kind[0])) == len(kind[0])
            assert kind[0].max() < limit
    assert sorted(seen) == sorted(clicks)


def test_long_sequences_are_cut_into_even_stretches_of_whole_batches(corpus: Corpus) -> None:
    """One user with 75 clicks: three stretches of 25, whose partners stay inside."""
    starts = np.array([0, 75])
    rows = np.arange(75, dtype=np.int32)
    long = dataclasses.replace(
        corpus,
        user_idx=np.zeros(75, np.int32),
        item_idx=rows % corpus.num_items,
        timestamp=np.arange(75),
        split=np.zeros(75, np.int8),
    )
    assert long.train_sequences.starts[:2].tolist() == starts.tolist()
    sampler = PairSampler(long, window=40, damping=0)
    assert np.unique(sampler.first_N).tolist() == [0, 25, 50]
    assert np.unique(sampler.last_N).tolist() == [24, 49, 74]
    pairs = sampler.epoch(np.random.default_rng(0))
    place = {int(item): n for n, item in enumerate(long.item_idx[:40])}
    for item, partner in zip(pairs.item_N[:25], pairs.partner_item_N[:25], strict=True):
        assert abs(place[int(item)] - place[int(partner)]) != 0
    assert len(list(sampler.batches(pairs, 25, np.random.default_rng(0)))) == 3


def test_plain_batches_pass_over_the_longer_side_once() -> None:
    steps = list(plain_batches(10, 25, 8, np.random.default_rng(0)))
    items = np.concatenate([items for _, items in steps])
    users = np.concatenate([users for users, _ in steps])
    assert set(items) == set(range(25))
    assert set(users) == set(range(10))
    assert all(len(u) == len(i) for u, i in steps)
    assert all(len(u) == 0 for u, _ in plain_batches(0, 25, 8, np.random.default_rng(0)))


def test_only_training_rows_are_seen(make_world: MakeWorld) -> None:
    one, _ = make_world("one", held_out_seed=1)
    two, _ = make_world("two", held_out_seed=2)
    assert not np.array_equal(one.item_idx, two.item_idx)
    for a, b in zip(
        PairSampler(one, 10, 0.5).epoch(np.random.default_rng(0)),
        PairSampler(two, 10, 0.5).epoch(np.random.default_rng(0)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    for c, d in zip(popularity_statistics(one), popularity_statistics(two), strict=True):
        np.testing.assert_array_equal(c, d)


def test_statistics_by_hand(corpus: Corpus) -> None:
    statistics = popularity_statistics(corpus)
    count = np.zeros(corpus.num_items)
    for _, i in train_clicks(corpus):
        count[i] += 1
    popularity = np.log1p(count)
    expected = (popularity - popularity.mean()) / popularity.std()
    np.testing.assert_allclose(statistics.items_IS[:, 0], expected, rtol=1e-5, atol=1e-6)
    mean = np.array(
        [popularity[[i for v, i in train_clicks(corpus) if v == u]].mean() for u in range(60)]
    )
    expected = (mean - mean.mean()) / mean.std()
    np.testing.assert_allclose(statistics.users_US[:, 0], expected, rtol=1e-4, atol=1e-5)
    share = np.maximum(count, 0.5) / count.sum()
    np.testing.assert_allclose(np.exp(statistics.log_q_I), share, rtol=1e-5)
