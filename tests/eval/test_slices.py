import numpy as np
import pytest

from dasrec.core import Corpus
from dasrec.eval.slices import HEAD_SHARE, SLICE_GROUPS, head_threshold, slice_masks


def third(corpus: Corpus, user: int) -> int:
    """Which third of the users, by training events, a user is in: counted one by one."""
    train = corpus.user_idx[corpus.split == 0].tolist()
    counts = [train.count(u) for u in range(corpus.num_users)]
    fewer = sum(c < counts[user] for c in counts)  # a group of ties starts where they end
    return next(part for part in (2, 1, 0) if part == 0 or fewer >= part * len(counts) / 3)


def quarter(corpus: Corpus, query: int) -> int:
    split = corpus.split[query]
    times = [corpus.timestamp[q] for q in corpus.queries("valid" if split == 1 else "test")]
    earlier = sum(t < corpus.timestamp[query] for t in times)
    return next(part for part in (3, 2, 1, 0) if part == 0 or earlier >= part * len(times) / 4)


def in_slice(corpus: Corpus, query: int, name: str) -> bool:
    """Membership of one query, written as a loop over the log."""
    user, item = corpus.user_idx[query], corpus.item_idx[query]
    train = [i for i, s in zip(corpus.item_idx.tolist(), corpus.split, strict=True) if s == 0]
    count = {i: train.count(i) for i in range(corpus.num_items)}
    history = corpus.user_idx[:query].tolist().count(user)
    border = max(
        c
        for c in range(1, len(train))
        if sum(n for n in count.values() if n >= c) >= HEAD_SHARE * len(train)
    )
    same_day = corpus.timestamp[query] // 86_400 == corpus.timestamp[query - 1] // 86_400
    before = corpus.item_idx[query - history : query].tolist()
    head = count[item] >= border
    cold, few = count[item] == 0, 1 <= count[item] <= 5 and not head
    member = {
        "tie_free": not same_day,
        "tied": bool(same_day),
        "cold_items": cold,
        "tail_items": few,
        "mid_items": not (cold or few or head),
        "head_items": head,
        "history_1_4": 1 <= history <= 4,
        "history_5_9": 5 <= history <= 9,
        "history_10_19": 10 <= history <= 19,
        "history_20_up": history >= 20,
        "first_time": item not in before,
        "repeated": item in before,
        **{f"activity_{n}": third(corpus, user) == i for i, n in enumerate(("low", "mid", "high"))},
        **{f"time_{i + 1}": quarter(corpus, query) == i for i in range(4)},
    }
    return bool(member[name])


def test_slices_are_what_a_loop_says(corpus: Corpus) -> None:
    queries = np.concatenate([corpus.queries("valid"), corpus.queries("test")])
    masks = slice_masks(corpus, queries)
    for name, mask in masks.items():
        assert mask.tolist() == [in_slice(corpus, int(q), name) for q in queries], name
    assert all(masks[name].any() for name in masks if name != "history_20_up")


def test_every_query_is_in_one_slice_of_each_group(corpus: Corpus) -> None:
    queries = corpus.queries("test")
    for group in SLICE_GROUPS:
        masks = slice_masks(corpus, queries, (group,))
        assert (np.sum(list(masks.values()), axis=0) == 1).all()


def test_popularity_is_of_training_interactions_only(corpus: Corpus) -> None:
    queries = corpus.queries("test")
    before = slice_masks(corpus, queries, ("popularity",))
    shifted = np.asarray(corpus.item_idx).copy()
    held_out = np.flatnonzero(corpus.split == 1)  # what valid holds must not matter
    shifted[held_out] = (shifted[held_out] + 7) % corpus.num_items
    other = Corpus(
        corpus.path, corpus.manifest, corpus.user_idx, shifted, corpus.timestamp, corpus.split,
        corpus.user_start, None,
    )  # fmt: skip
    after = slice_masks(other, queries, ("popularity",))
    assert all((before[name] == after[name]).all() for name in before)


def test_quarters_do_not_depend_on_which_queries_have_a_list(corpus: Corpus) -> None:
    queries = corpus.queries("test")
    some = len(queries) // 3  # early ones: time goes up with the row here
    whole, part = (slice_masks(corpus, q, ("time",)) for q in (queries, queries[:some]))
    assert all((whole[name][:some] == part[name]).all() for name in whole)
    assert all(0.15 < mask.mean() < 0.35 for mask in whole.values())


@pytest.mark.parametrize("counts", [[], [0, 0]])
def test_without_training_interactions_nothing_is_head(counts: list[int]) -> None:
    assert head_threshold(np.array(counts, np.int64)) == 1
