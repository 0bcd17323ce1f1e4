import numpy as np
import pytest

from dasrec.core import Corpus
from dasrec.eval.slices import HEAD_SHARE, head_threshold, slice_masks


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
    for group in ("ties", "popularity", "history_length"):
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


@pytest.mark.parametrize("counts", [[], [0, 0]])
def test_without_training_interactions_nothing_is_head(counts: list[int]) -> None:
    assert head_threshold(np.array(counts, np.int64)) == 1
