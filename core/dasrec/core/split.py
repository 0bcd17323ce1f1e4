"""Cut every user's sequence into train, valid and test."""

import datetime
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, model_validator

from dasrec.core.config import StageConfig
from dasrec.core.corpus import SPLITS, Split

Ints = npt.NDArray[np.int64]
Int8s = npt.NDArray[np.int8]

TRAIN, VALID, TEST = SPLITS["train"], SPLITS["valid"], SPLITS["test"]


def _iso(value: Any) -> Any:
    """YAML reads 2014-05-01 as a date."""
    return value.isoformat() if isinstance(value, datetime.date) else value


Cut = Annotated[str | float, BeforeValidator(_iso)]


class SplitConfig(StageConfig):
    """How interactions are divided."""

    method: Literal["leave_one_out", "global_time", "sliding_window", "column"] = "leave_one_out"
    """`leave_one_out`: each user's last event is test, the one before it valid; users with fewer
    than three events are all train. `global_time`: two moments cut the whole log. `sliding_window`:
    every event but a user's first is a target, its window the events before it; the targets in
    order of time are cut at two shares of their number (MiniOneRec's 8:1:1). `column`: a column
    mapped as `split` holds train, valid or test (a published split)."""

    valid_users: int | None = Field(default=None, ge=1)
    """leave_one_out: only so many users, drawn at random, have a validation event; the event before
    the last of all others is training. Benchmarks that fit the final model on nearly all but the
    test events work so; their figures are higher than those of models that never see the others'
    last but one event. None: every user has one."""

    valid_from: Cut | None = None
    """global_time: first moment of valid. An ISO date or time (UTC), or the fraction of the
    interactions, in order of time, that come before it. sliding_window: the fraction of the targets
    that come before valid."""

    test_from: Cut | None = None
    """The same for test."""

    names: dict[str, Split] = Field(default_factory=dict)
    """column: what the log calls train, valid and test, where it has other names for them."""

    cold_items: float | None = Field(default=None, gt=0, lt=1)
    """This share of the items, drawn at random, loses its training events: what valid and test
    then hold of them shows how new items fare. None: no item is made new."""

    @property
    def parts(self) -> dict[str, int]:
        """Number of each value of a split column."""
        names: dict[str, Split] = self.names or {part: part for part in SPLITS}
        return {name: SPLITS[part] for name, part in names.items()}

    @model_validator(mode="after")
    def _check(self) -> "SplitConfig":
        cuts = (self.valid_from, self.test_from)
        if self.valid_users is not None and self.method != "leave_one_out":
            raise ValueError("valid_users belongs to method: leave_one_out")
        if self.names and self.method != "column":
            raise ValueError("names belongs to method: column")
        if self.method not in ("global_time", "sliding_window"):
            if cuts != (None, None):
                raise ValueError(
                    "valid_from and test_from belong to method: global_time or sliding_window"
                )
            return self
        for name, cut in zip(("valid_from", "test_from"), cuts, strict=True):
            if cut is None:
                raise ValueError(f"{name} is required by method: {self.method}")
            if self.method == "sliding_window" and not isinstance(cut, float):
                raise ValueError(
                    f"{name} must be a fraction with method: sliding_window, got '{cut}'; to cut "
                    "at a moment use method: global_time"
                )
            if isinstance(cut, float) and not 0 < cut < 1:
                raise ValueError(f"{name} must be a fraction between 0 and 1 or a date, got {cut}")
            if isinstance(cut, str):
                _seconds(cut, name)
        first, second = (_seconds(c, "") if isinstance(c, str) else c for c in cuts)
        if type(self.valid_from) is type(self.test_from) and (first or 0) > (second or 0):
            raise ValueError(f"valid_from must not be after test_from, got {cuts}")
        return self


def _seconds(text: str, name: str) -> int:
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{name} must be an ISO date or a fraction, got '{text}'") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp())


class Cuts(NamedTuple):
    """Moments of a global split, seconds UTC."""

    valid: int
    test: int

    def split(self, timestamp_N: Ints) -> Int8s:
        """Split of events by their moment: train < valid <= valid-split < test <= test-split."""
        return np.searchsorted(self, timestamp_N, side="right").astype(np.int8)


def global_cuts(config: SplitConfig, timestamp_N: Ints) -> Cuts | None:
    """Turn dates and fractions into moments; None for another method than global_time.

    A fraction f stands for the moment of interaction floor(f * N) in order of time; events of
    that same moment all fall behind the cut, so none is split between two parts.
    """
    if config.method != "global_time":
        return None
    ordered = np.sort(timestamp_N)

    def moment(cut: str | float | None) -> int:
        assert cut is not None
        return _seconds(cut, "") if isinstance(cut, str) else int(ordered[int(cut * len(ordered))])

    return Cuts(moment(config.valid_from), moment(config.test_from))


def split_interactions(
    config: SplitConfig,
    user_N: Ints,
    timestamp_N: Ints,
    user_start: Ints,
    cuts: Cuts | None,
    given: Int8s | None,
) -> Int8s:
    """Split interactions that are sorted by user and order.

    Args:
        config: the method.
        user_N: (N,) user of each.
        timestamp_N: (N,) seconds.
        user_start: (U + 1,) first row of every user.
        cuts: of global_time, see `global_cuts`.
        given: (N,) of column: the column of the published split.

    Raises:
        ValueError: a given split in which a user's event falls into an earlier part than the
            event before it (a train event behind a test event would be trained on).
    """
    if cuts is not None:
        return split_global_time(user_N, timestamp_N, cuts)
    if config.method == "sliding_window":
        shares = (config.valid_from, config.test_from)
        assert isinstance(shares[0], float)
        assert isinstance(shares[1], float)
        return split_sliding_window(user_N, timestamp_N, user_start, shares[0], shares[1])
    if given is None:
        return split_leave_one_out(user_start, config.valid_users)
    back = (np.diff(given) < 0) & (np.diff(user_N) == 0)
    if back.any():
        raise ValueError(
            f"split column: {back.sum()} interactions lie in an earlier part than the user's "
            "interaction before them, got e.g. a train event after a test event; map the right "
            "`order` column or use another split.method"
        )
    return given


def split_global_time(user_N: Ints, timestamp_N: Ints, cuts: Cuts) -> Int8s:
    """Split interactions, sorted by user and order, at two moments.

    Where a user's order contradicts the timestamps, an event never falls into an earlier part
    than the events before it: nothing behind a test event is trained on.
    """
    return _never_back(user_N, cuts.split(timestamp_N))


def split_sliding_window(
    user_N: Ints, timestamp_N: Ints, user_start: Ints, valid_from: float, test_from: float
) -> Int8s:
    """Cut the targets, every event but the users' first, at two shares of their number.

    The targets are counted in order of time; those of one moment by user, then in the user's order,
    and a cut may fall among them (as in MiniOneRec's `convert_dataset`: the first int(0.8 n) rows
    are train, the next up to int(0.9 n) valid). A first event is no target and belongs to the part
    of the targets around it: it is trained on only if it lies in the training period. Where a
    user's order contradicts the timestamps, see `split_global_time`.

    Args:
        user_N: (N,) user of each event, ascending.
        timestamp_N: (N,) seconds.
        user_start: (U + 1,) first row of every user.
        valid_from: share of the targets before valid.
        test_from: share of the targets before test.
    """
    is_target = np.ones(len(user_N), np.bool_)
    is_target[user_start[:-1][np.diff(user_start) > 0]] = False
    order = np.argsort(timestamp_N, kind="stable")
    before_N = np.empty(len(user_N), np.int64)  # targets earlier than each event
    before_N[order] = np.cumsum(is_target[order]) - is_target[order]
    total = int(is_target.sum())
    cuts = (int(valid_from * total), int(test_from * total))
    return _never_back(user_N, np.searchsorted(cuts, before_N, side="right").astype(np.int8))


def _never_back(user_N: Ints, split_N: Int8s) -> Int8s:
    """No event in an earlier part than the events of the user before it."""
    key = user_N * len(SPLITS) + split_N
    return (np.maximum.accumulate(key) - user_N * len(SPLITS)).astype(np.int8)


def split_leave_one_out(user_start: Ints, valid_users: int | None = None) -> Int8s:
    """Split interactions sorted by user and order.

    Args:
        user_start: (U + 1,) first row of every user.
        valid_users: how many of the users with three or more rows have a valid row: the first
            ones, which are random ones because `prepare` numbers users by a permutation.

    Returns:
        (N,) the last row of every user with three or more is test, the one before it valid.
    """
    split_N = np.zeros(user_start[-1], dtype=np.int8)
    last = user_start[1:][np.diff(user_start) >= 3] - 1
    split_N[last] = TEST
    split_N[last[:valid_users] - 1] = VALID
    return split_N
