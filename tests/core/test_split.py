"""Cutting sequences, against splits done by hand and by brute force."""

import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasrec.core import SplitConfig, build_config
from dasrec.core.filters import k_core
from dasrec.core.split import (
    Cuts,
    global_cuts,
    split_global_time,
    split_interactions,
    split_leave_one_out,
    split_sliding_window,
)


def test_leave_one_out_by_hand() -> None:
    #                   user:  0  |1|  2   | 3   |  4 (none)  | 5
    user_start = np.array([0, 4, 5, 7, 10, 10, 13])
    assert split_leave_one_out(user_start).tolist() == [0, 0, 1, 2, 0, 0, 0, 0, 1, 2, 0, 1, 2]


def test_cuts_from_dates_and_fractions() -> None:
    day = 86_400
    times = np.array([5, 1, 3, 3, 2, 9, 7, 8, 4, 6]) * day
    config = SplitConfig(method="global_time", valid_from=0.2, test_from=0.8)
    # in order of time 1 2 3 3 4 ...: the event at floor(.2 * 10) = 2 is of day 3, and both events
    # of day 3 lie behind the cut
    assert global_cuts(config, times) == Cuts(3 * day, 8 * day)
    dated = SplitConfig(method="global_time", valid_from="1970-01-04", test_from=0.9)
    assert global_cuts(dated, times) == Cuts(3 * day, 9 * day)
    zoned = SplitConfig(
        method="global_time", valid_from="1970-01-01T02:00:00+02:00", test_from="1970-01-02"
    )
    assert global_cuts(zoned, times) == Cuts(0, day)
    assert global_cuts(SplitConfig(), times) is None


def test_a_cut_belongs_to_the_later_part() -> None:
    assert Cuts(10, 20).split(np.array([9, 10, 19, 20])).tolist() == [0, 1, 1, 2]


def test_yaml_dates_are_read() -> None:
    values = {
        "method": "global_time",
        "valid_from": datetime.date(2014, 5, 1),
        "test_from": datetime.datetime(2014, 6, 1, 12),
    }
    config = build_config(SplitConfig, values, "f")
    assert (config.valid_from, config.test_from) == ("2014-05-01", "2014-06-01T12:00:00")


def test_order_against_time_never_trains_on_what_follows_a_test_event() -> None:
    user = np.array([0, 0, 0, 1, 1])
    times = np.array([1, 25, 2, 12, 3])
    assert split_global_time(user, times, Cuts(10, 20)).tolist() == [0, 2, 2, 1, 1]


def test_a_published_split_is_taken_as_it_is_or_refused() -> None:
    user, times = np.array([0, 0, 0, 1]), np.zeros(4, dtype=np.int64)
    start, published = np.array([0, 3, 4]), np.array([0, 1, 2, 0], dtype=np.int8)
    config = SplitConfig(method="column")
    given = split_interactions(config, user, times, start, None, published)
    assert given.tolist() == [0, 1, 2, 0]
    with pytest.raises(ValueError, match="1 interactions lie in an earlier part"):
        split_interactions(config, user, times, start, None, published[::-1].copy())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"valid_from": 0.5}, "belong to method: global_time"),
        ({"method": "global_time", "valid_from": 0.5}, "test_from is required"),
        (
            {"method": "sliding_window", "valid_from": "2014-01-01", "test_from": 0.9},
            "valid_from must be a fraction with method: sliding_window, got '2014-01-01'",
        ),
        ({"method": "sliding_window", "test_from": 0.9}, "required by method: sliding_window"),
        (
            {"method": "global_time", "valid_from": 1.5, "test_from": 0.9},
            "valid_from must be a fraction between 0 and 1 or a date, got 1.5",
        ),
        (
            {"method": "global_time", "valid_from": "May", "test_from": 0.9},
            "valid_from must be an ISO date or a fraction, got 'May'",
        ),
        (
            {"method": "global_time", "valid_from": 0.9, "test_from": 0.8},
            "valid_from must not be after test_from",
        ),
        (
            {"method": "global_time", "valid_from": "2014-02-01", "test_from": "2014-01-31"},
            "valid_from must not be after test_from",
        ),
    ],
)
def test_faults_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_config(SplitConfig, values, "f: prepare.split")


def windows(log: list[tuple[int, int]], shares: tuple[float, float]) -> list[int]:
    """MiniOneRec's rule, row by row: a sample for every event but a user's first, sorted by time,
    the first int(.8 n) train, up to int(.9 n) valid; a first event goes with the samples around it.
    """
    users = [user for user, _ in log]
    samples = [row for row in range(len(log)) if row and users[row] == users[row - 1]]
    in_order = sorted(range(len(log)), key=lambda row: log[row][1])
    cuts = [int(share * len(samples)) for share in shares]
    part = {}
    for row in range(len(log)):
        before = sum(other in samples for other in in_order[: in_order.index(row)])
        part[row] = sum(before >= cut for cut in cuts)
        if row in samples:  # an order against the time never goes back
            part[row] = max(part[row], part[row - 1])
    return [part[row] for row in range(len(log))]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8)), min_size=1, max_size=40),
    st.sampled_from([(0.8, 0.9), (0.5, 0.75), (0.1, 0.2)]),
)
def test_sliding_windows_are_the_samples_counted_one_by_one(
    log: list[tuple[int, int]], shares: tuple[float, float]
) -> None:
    log = sorted(log, key=lambda event: event[0])  # the time may contradict the order
    user, times = np.array(log).T
    start = np.searchsorted(user, np.arange(7))
    assert split_sliding_window(user, times, start, *shares).tolist() == windows(log, shares)


def test_sliding_windows_by_hand() -> None:
    #            user 0                | 1 | 2             | 3 (starts in the test period)
    user = np.array([0, 0, 0, 0, 0, 0, 1, 2, 2, 2, 2, 2, 2, 3, 3])
    time = np.array([1, 2, 3, 3, 5, 9, 4, 1, 2, 3, 6, 7, 8, 9, 9])
    start = np.searchsorted(user, np.arange(5))
    split = split_sliding_window(user, time, start, 0.8, 0.9)
    # eleven targets by time: 2 2 3 3 3 5 6 7 | 8 | 9 9; the cuts are int(8.8) and int(9.9)
    assert split.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 2, 2]


def test_sizes_of_minionerec_industrial() -> None:
    """36,260 train, 4,532 valid and 4,533 test rows are published."""
    user = np.repeat(np.arange(7694), 2)
    user = np.sort(np.concatenate([user, np.zeros(45_325 - 7694, np.int64)]))
    time = np.random.default_rng(0).permutation(len(user))
    time = time[np.lexsort((time, user))]
    start = np.searchsorted(user, np.arange(7695))
    split = split_sliding_window(user, time, start, 0.8, 0.9)
    targets = np.append(False, user[1:] == user[:-1])
    assert np.bincount(split[targets]).tolist() == [36_260, 4_532, 4_533]


def brute_k_core(pairs: list[tuple[int, int]], min_user: int, min_item: int) -> list[bool]:
    """One row at a time, from the definition: remove any row that lacks company, and repeat."""
    keep = [True] * len(pairs)

    def count(side: int, value: int) -> int:
        return sum(k and p[side] == value for k, p in zip(keep, pairs, strict=True))

    changed = True
    while changed:
        changed = False
        for i, (user, item) in enumerate(pairs):
            if keep[i] and (count(0, user) < min_user or count(1, item) < min_item):
                keep[i], changed = False, True
    return keep


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=30),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_k_core_is_the_brute_force_one(
    pairs: list[tuple[int, int]], min_user: int, min_item: int
) -> None:
    columns = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    found = k_core(columns[:, 0], columns[:, 1], min_user, min_item)
    assert found.tolist() == brute_k_core(pairs, min_user, min_item)


def test_k_core_unravels_a_chain() -> None:
    # item i links users i and i + 1; the end users have one row, so the whole chain falls
    user = np.repeat(np.arange(50), 2)[1:-1]
    item = np.repeat(np.arange(49), 2)
    assert not k_core(user, item, 2, 2).any()
    ring_user, ring_item = np.append(user, [0, 49]), np.append(item, [49, 49])
    assert k_core(ring_user, ring_item, 2, 2).all()


def test_leave_one_out_with_few_validation_users() -> None:
    user_start = np.array([0, 4, 6, 10, 13])
    split = split_leave_one_out(user_start, valid_users=2)
    assert split.tolist() == [0, 0, 1, 2, 0, 0, 0, 0, 1, 2, 0, 0, 2]
    with pytest.raises(ValueError, match="valid_users belongs to method: leave_one_out"):
        SplitConfig(method="column", valid_users=5)


def test_names_of_a_split_column() -> None:
    config = SplitConfig(method="column", names={"val": "valid", "late": "test", "old": "train"})
    assert config.parts == {"val": 1, "late": 2, "old": 0}
    assert SplitConfig(method="column").parts == {"train": 0, "valid": 1, "test": 2}
    with pytest.raises(ValueError, match="names belongs to method: column"):
        SplitConfig(names={"val": "valid"})
