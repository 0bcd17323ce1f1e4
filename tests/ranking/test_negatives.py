"""Sampled negatives: what they never are, how popular they are, and that they repeat."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest

from dasrec.core import Corpus, Split
from dasrec.core.corpus import SPLITS
from dasrec.ranking import NegativesConfig, rows_of
from dasrec.ranking.negatives import popularity_groups


@pytest.mark.parametrize("matching", ["popularity", "uniform"])
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_negatives_exclude_the_users_items(
    implicit: Any, matching: Literal["popularity", "uniform"], split: Split
) -> None:
    corpus = implicit.corpus
    config = NegativesConfig(num_negatives=3, matching=matching, group_size=20)
    rows = rows_of(config, corpus, split, seed=0)
    known = corpus.train_rows if split == "train" else np.arange(len(corpus.user_idx))
    pairs = set(zip(corpus.user_idx[known].tolist(), corpus.item_idx[known].tolist(), strict=True))
    negative = rows.label == 0
    drawn = zip(rows.user_idx[negative].tolist(), rows.item_idx[negative].tolist(), strict=True)
    assert pairs.isdisjoint(drawn)
    positive = rows.label == 1
    queries = corpus.queries(split)  # the first event of a user has no history to predict it from
    assert rows.history_end[positive].tolist() == queries.tolist()
    assert rows.item_idx[positive].tolist() == corpus.item_idx[queries].tolist()
    assert negative.sum() > 2.9 * positive.sum()


def test_negatives_are_deterministic_and_differ_by_seed(implicit: Any) -> None:
    draws = [rows_of(NegativesConfig(), implicit.corpus, "train", seed) for seed in (0, 0, 1)]
    np.testing.assert_equal(draws[0][:-1], draws[1][:-1])  # column by column
    first, second = draws[0].context, draws[1].context
    assert first is not None
    assert second is not None
    assert first.equals(second)
    assert (
        len(draws[0].label) != len(draws[2].label) or (draws[0].item_idx != draws[2].item_idx).any()
    )


def test_negatives_do_not_depend_on_later_events(
    implicit: Any, make_corpus: Callable[..., Corpus]
) -> None:
    user, item, time, label, split = implicit.log
    changed = np.where(split > 0, (item + 11) % implicit.sizes[1], item)
    other = make_corpus(user, changed, time, label, split, implicit.sizes, impressions=False)
    first, second = (rows_of(NegativesConfig(), c, "train", 0) for c in (implicit.corpus, other))
    assert (first.item_idx == second.item_idx).all()
    assert (first.label == second.label).all()


def test_popularity_groups() -> None:
    count = np.array([0, 9, 1, 0, 1, 2, 5, 7, 7, 0])
    groups = popularity_groups(count, 3)
    # 0 | 1 1 2 | 5 7 7 and the short rest (9)
    assert groups.tolist() == [0, 2, 1, 0, 1, 1, 2, 2, 2, 0]
    assert popularity_groups(np.array([3, 3]), 50).tolist() == [0, 0]
    assert popularity_groups(np.array([0, 3]), 50).tolist() == [0, 1]


def test_popularity_does_not_give_the_label_away(
    make_corpus: Callable[..., Corpus],
) -> None:
    rng = np.random.default_rng(0)
    num_users, num_items, each = 300, 400, 15
    weight = 1 / np.arange(1, num_items + 1)
    item = np.concatenate(
        [rng.choice(num_items, each, False, weight / weight.sum()) for _ in range(num_users)]
    )
    user = np.repeat(np.arange(num_users), each)
    time = np.tile(np.arange(each), num_users)
    split = np.digitize(time, [10, 12])
    corpus = make_corpus(
        user, item, time, np.ones(len(user)), split, (num_users, num_items), impressions=False
    )
    popularity = {}
    for matching in ("popularity", "uniform"):
        rows = rows_of(NegativesConfig(matching=matching, group_size=10), corpus, "train", 0)
        log_count = np.log(corpus.train_item_count[rows.item_idx] + 1)
        means = [log_count[rows.label == value].mean() for value in (0, 1)]
        popularity[matching] = means[1] - means[0]
    assert popularity["uniform"] > 1
    assert abs(popularity["popularity"]) < 0.15
    # unseen items meet unseen items
    rows = rows_of(NegativesConfig(), corpus, "test", 0)
    unseen = corpus.train_item_count[rows.item_idx] == 0
    assert unseen[rows.label == 1].mean() == pytest.approx(unseen[rows.label == 0].mean(), abs=0.01)
    assert SPLITS["test"] == 2
