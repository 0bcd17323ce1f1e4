from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from dasrec.baselines.sequences import (
    pad,
    repeat_log_rate,
    seen_at,
    shuffled_batches,
    training_windows,
)
from dasrec.core import Ragged

LENGTHS = [0, 1, 2, 5, 6, 7, 11, 13]


@pytest.fixture
def sequences() -> Ragged:
    starts = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    return Ragged(np.arange(starts[-1], dtype=np.int32), starts)  # values = places in the array


@pytest.mark.parametrize("max_length", [1, 2, 5, 50])
def test_every_event_but_the_first_is_a_target_once(sequences: Ragged, max_length: int) -> None:
    windows = training_windows(sequences, max_length)
    pairs = Counter[tuple[int, int]]()
    for first, length in zip(windows.first, windows.length, strict=True):
        assert 1 <= length <= max_length
        pairs.update((int(p), int(p) + 1) for p in range(first, first + length))
    starts = sequences.starts
    expected = [(p, p + 1) for s, e in pairwise(starts) for p in range(s, e - 1)]
    assert pairs == Counter(expected)


def test_the_latest_targets_have_the_longest_history(sequences: Ragged) -> None:
    windows = training_windows(sequences, 5)
    ends = windows.first + windows.length
    for end in sequences.starts[1:][np.array(LENGTHS) > 5] - 1:
        assert windows.length[ends == end] == 5


def test_pad_gives_targets_one_place_later(sequences: Ragged) -> None:
    windows = training_windows(sequences, 50)
    chosen = np.array([3, 0, 1])
    inputs, targets = pad(windows, chosen, 99), pad(windows, chosen, 99, shift=1)
    assert inputs.shape == (3, windows.length[chosen].max())
    for row, window in enumerate(chosen):
        length, first = windows.length[window], windows.first[window]
        assert inputs[row, :length].tolist() == list(range(first, first + length))
        assert targets[row, :length].tolist() == list(range(first + 1, first + length + 1))
        assert (inputs[row, length:] == 99).all()
        assert (targets[row, length:] == 99).all()


def test_batches_are_random_and_their_parts_of_like_length() -> None:
    length = np.random.default_rng(0).geometric(0.2, 1000)
    batches = list(shuffled_batches(length, 16, np.random.default_rng(1)))
    whole = [np.concatenate(parts) for parts in batches]
    assert sorted(np.concatenate(whole)) == list(range(1000))
    assert [len(batch) for batch in whole] == [16] * 62 + [8]
    # the spread of means of 16 random draws; with like lengths it would be that of one draw
    means = [length[batch].mean() for batch in whole]
    assert np.std(means) == pytest.approx(length.std() / 4, rel=0.3)
    padded = sum(len(part) * length[part].max() for parts in batches for part in parts)
    assert padded < 1.7 * length.sum()  # about 3 times in one part
    again = [np.concatenate(b) for b in shuffled_batches(length, 16, np.random.default_rng(1))]
    assert all((a == b).all() for a, b in zip(whole, again, strict=True))
    other = [np.concatenate(b) for b in shuffled_batches(length, 16, np.random.default_rng(2))]
    assert any(set(a) != set(b) for a, b in zip(whole, other, strict=True))


def test_seen_at_grows_along_the_sequence() -> None:
    items = torch.tensor([[4, 5, 6, 9], [7, 8, 9, 9]])  # 9 is padding
    seen = seen_at(items, items < 9)
    assert [set(row) for row in seen.tolist()] == [{4}, {4, 5}, {4, 5, 6}, {7}, {7, 8}]


def test_repeat_log_rate_counts_targets_met_before() -> None:
    sequences = Ragged(np.array([0, 1, 0, 0, 2, 1, 2, 1], np.int32), np.array([0, 4, 8]))
    # windows 0 1 0 0 and 2 1 2 1: 6 targets, 4 of them repeats
    assert repeat_log_rate(training_windows(sequences, 50)) == pytest.approx(np.log(5 / 7))
    fresh = Ragged(np.arange(8, dtype=np.int32), np.array([0, 4, 8]))
    assert repeat_log_rate(training_windows(fresh, 50)) == pytest.approx(np.log(1 / 7))
