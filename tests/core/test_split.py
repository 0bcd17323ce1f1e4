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
    assert split_interactions(user, times, start, None, published).tolist() == [0, 1, 2, 0]
    with pytest.raises(ValueError, match="1 interactions lie in an earlier part"):
        split_interactions(user, times, start, None, published[::-1].copy())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"valid_from": 0.5}, "belong to method: global_time"),
        ({"method": "global_time", "valid_from": 0.5}, "test_from is required"),
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
