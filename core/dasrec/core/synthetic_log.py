"""Sessions, slates and clicks of the synthetic data, all users at once.

Shape letters: U users, N sessions, S slate positions, M impressions, C leaf categories.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dasrec.core.synthetic_world import COMPLEMENT, Floats, Ints, Items, Users

HOUR = 3_600
SPARE = 4  # candidates drawn beyond the slate, to replace repeats
MAX_SESSIONS = 100
SOURCES = {"intent": 0.3, "complement": 0.1, "interest": 0.25, "popular": 0.2, "fresh": 0.05}
"""Shares of the candidate sources; the rest of a slate is random."""
TRIES = 3
"""Items drawn per slot of a source that knows the user; the best match is shown."""
FRESH = 7 * 24 * HOUR
"""Items are fresh for a week; the boost of their appeal decays with this time constant."""
GAP = 600  # seconds at least between two sessions of a user
HOURLY = (3, 2, 1, 1, 1, 2, 4, 6, 7, 7, 7, 8, 9, 8, 7, 7, 8, 9, 11, 13, 14, 13, 10, 6)
"""Relative activity by hour of the day."""


@dataclass(frozen=True)
class Weights:
    """Coefficients of the click model's log-odds."""

    interest: float = 3.5
    intent: float = 1.5
    complement: float = 1.0
    popularity: float = 1.0
    recency: float = 0.8


@dataclass(frozen=True)
class Sessions:
    """Visits, sorted by user and time."""

    user: Ints
    """(N,)"""
    start: Ints
    """(N,) seconds since the start of the log."""
    intent: Ints
    """(N,) the leaf category that the visit is about."""


@dataclass(frozen=True)
class Log:
    """Impressions, sorted by user, time and position."""

    user: Ints
    item: Ints
    time: Ints
    """(M,) seconds since the start of the log."""
    position: Ints
    """(M,) 0 = the top."""
    click: npt.NDArray[np.int8]
    probability: Floats
    """(M,) the chance of the click that was drawn."""
    bias: float
    """What the log-odds are lowered by, to meet the click-through rate."""


def make_sessions(users: Users, mean: float, span: int, rng: np.random.Generator) -> Sessions:
    """Draw when each user comes and what for.

    The intent is a Markov chain: it stays, moves on to the complementary category, or is drawn
    anew from the user's interests (shares 0.25, 0.35, 0.4).
    """
    num_users = len(users.conformity)
    activity = rng.lognormal(-0.18, 0.6, num_users)  # mean 1
    counts = np.clip(rng.poisson(mean * activity), 1, MAX_SESSIONS)
    user = np.repeat(np.arange(num_users), counts)
    first = np.cumsum(counts) - counts
    nth = np.arange(len(user)) - first[user]

    joined = np.where(rng.random(num_users) < 0.7, 0.0, 0.5 * rng.random(num_users))
    usable = span - GAP * (MAX_SESSIONS + 1)
    moment = (joined[user] + (1 - joined[user]) * rng.random(len(user))) * usable
    moment = moment[np.lexsort((moment, user))]  # user is sorted, so this sorts within users
    hours = np.concatenate([[0.0], np.cumsum(HOURLY)]) / np.sum(HOURLY)
    day, share = np.divmod(moment, 24 * HOUR)
    moment = day * 24 * HOUR + np.interp(share / (24 * HOUR), hours, np.arange(25)) * HOUR
    start = np.minimum(moment, usable).astype(np.int64) + nth * GAP

    intent = np.empty(len(user), np.int64)
    current = np.zeros(num_users, np.int64)
    for n in range(counts.max()):
        here = np.flatnonzero(counts > n)
        pick = (users.cumulative[here] < rng.random((len(here), 1))).sum(axis=1)
        fresh = users.leaves[here, np.minimum(pick, users.leaves.shape[1] - 1)]
        move = rng.random(len(here)) if n else np.ones(len(here))
        current[here] = np.where(
            move < 0.25, current[here], np.where(move < 0.6, COMPLEMENT[current[here]], fresh)
        )
        intent[first[here] + n] = current[here]
    return Sessions(user, start, intent)


class Shelf:
    """Draws released items, weighted, from a group of items or from all of them.

    Items lie sorted by (group, release), so what a group offers at a time is one range, and a
    weighted draw from it is one search in the running sum of the weights.
    """

    def __init__(self, group: Ints, release: Ints, weight: npt.NDArray[np.float64]) -> None:
        self._origin = int(release.min())
        self._stride = 2**40  # longer than any time span, in seconds
        self._order = np.lexsort((release, group))
        self._keys = (group * self._stride + release - self._origin)[self._order]
        self._sum = np.concatenate([[0.0], np.cumsum(weight[self._order])])

    def draw(self, group: Ints, since: Ints | None, until: Ints, rng: np.random.Generator) -> Ints:
        """One item per row, released in [since, until] (None: whenever before); -1 where none."""
        base = group * self._stride - self._origin
        begin = np.searchsorted(self._keys, group * self._stride if since is None else base + since)
        end = np.searchsorted(self._keys, base + until, side="right")
        low, high = self._sum[begin], self._sum[end]
        at = np.searchsorted(self._sum, low + rng.random(len(group)) * (high - low), "right") - 1
        item = self._order[np.clip(at, begin, np.maximum(end - 1, begin)) % len(self._order)]
        return np.where(end > begin, item, -1)


def make_slates(
    sessions: Sessions, users: Users, items: Items, size: int, rng: np.random.Generator
) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Draw what each session shows: (N, S) items in random order, and which slots are filled."""
    num_sessions, width = len(sessions.user), size + SPARE
    row = np.repeat(np.arange(num_sessions), width)
    user, now = sessions.user[row], sessions.start[row]
    appeal = np.exp(0.7 * items.popularity.astype(np.float64))
    everything = np.zeros_like(items.leaf)
    by_leaf = Shelf(items.leaf, items.release, np.sqrt(appeal))
    by_appeal = Shelf(everything, items.release, appeal)
    uniform = Shelf(everything, items.release, np.ones(len(appeal)))

    source = np.searchsorted(np.cumsum(list(SOURCES.values())), rng.random(len(row)), "right")
    drawn = np.full(len(row), -1)
    for n, name in enumerate(SOURCES):
        at = np.flatnonzero(source == n)
        whole = np.zeros(len(at), np.int64)
        if name == "popular":
            drawn[at] = by_appeal.draw(whole, None, now[at], rng)
        elif name == "fresh":
            drawn[at] = uniform.draw(whole, now[at] - FRESH, now[at], rng)
        else:
            leaf = sessions.intent[row[at]]
            if name == "complement":
                leaf = COMPLEMENT[leaf]
            elif name == "interest":
                leaf = users.leaves[user[at], rng.integers(users.leaves.shape[1], size=len(at))]
            tries = [by_leaf.draw(leaf, None, now[at], rng) for _ in range(TRIES)]
            drawn[at] = _best_match(users.interest, items.interest, user[at], tries)
    empty = np.flatnonzero(drawn < 0)  # the random share, and shelves with nothing on them yet
    drawn[empty] = uniform.draw(np.zeros(len(empty), np.int64), None, now[empty], rng)

    slates = drawn.reshape(num_sessions, width)
    order = np.argsort(slates, axis=1, kind="stable")
    ordered = np.take_along_axis(slates, order, axis=1)
    repeat = np.zeros(slates.shape, bool)
    later = np.concatenate([np.zeros((num_sessions, 1), bool), np.diff(ordered) == 0], axis=1)
    np.put_along_axis(repeat, order, later, axis=1)
    repeat |= slates < 0
    # A random order of the distinct items: position is independent of relevance.
    chosen = np.argsort(rng.random(slates.shape) + repeat, axis=1)[:, :size]
    return np.take_along_axis(slates, chosen, 1), ~np.take_along_axis(repeat, chosen, 1)


def make_clicks(
    sessions: Sessions,
    slates: Ints,
    filled: npt.NDArray[np.bool_],
    users: Users,
    items: Items,
    examination: Floats,
    *,
    weights: Weights,
    ctr: float,
    rng: np.random.Generator,
) -> Log:
    """Draw the clicks: P(click) = examination[position] * sigmoid(log-odds).

    log-odds = a <user, item> + b [leaf is the intent] + b' [leaf is its complement]
             + c conformity_u popularity_i + d exp(-age_i / week) - bias

    (examination hypothesis of Richardson et al., 2007; interest and conformity as causes of clicks
    as in DICE, Zheng et al., 2021). An item that the user has clicked is not shown again.
    """
    row, position = np.nonzero(filled)
    user, item = sessions.user[row], slates[row, position]
    leaf, intent = items.leaf[item], sessions.intent[row]
    logit = weights.interest * _match(users.interest, items.interest, user, item)
    logit += weights.intent * (leaf == intent)
    logit += weights.complement * (leaf == COMPLEMENT[intent])
    logit += weights.popularity * users.conformity[user] * items.popularity[item]
    logit += weights.recency * np.exp((items.release[item] - sessions.start[row]) / FRESH)
    seen = examination[position]
    bias = _calibrate(logit, seen, ctr)
    probability = (seen / (1 + np.exp(bias - logit))).astype(np.float32)
    click = rng.random(len(row)) < probability

    # Positions are looked at one after the other, some seconds each.
    pace = np.cumsum(rng.integers(2, 15, size=slates.shape), axis=1)
    time = sessions.start[row] + pace[row, position]
    kept = ~_clicked_before(user * len(items.leaf) + item, click)
    return Log(
        user[kept],
        item[kept],
        time[kept],
        position[kept],
        click[kept].astype(np.int8),
        probability[kept],
        bias,
    )


def _match(users: Floats, items: Floats, user: Ints, item: Ints) -> Floats:
    """Row-wise inner products, in blocks that fit the cache."""
    match = np.empty(len(user), np.float32)
    for begin in range(0, len(user), 65_536):
        part = slice(begin, begin + 65_536)
        match[part] = np.einsum("mf,mf->m", users[user[part]], items[item[part]])
    return match


def _best_match(users: Floats, items: Floats, user: Ints, tries: list[Ints]) -> Ints:
    """Per row, the one of the tries that fits the user's interest best."""
    best, best_match = tries[0], _match(users, items, user, tries[0])
    for other in tries[1:]:
        match = _match(users, items, user, other)
        best = np.where(match > best_match, other, best)
        best_match = np.maximum(match, best_match)
    return best


def _calibrate(logit: Floats, seen: Floats, ctr: float) -> float:
    """The bias at which the mean click probability is `ctr`, by bisection."""
    step = max(1, len(logit) // 200_000)
    sample, weight = logit[::step].astype(np.float64), seen[::step]
    low, high = float(sample.min()) - 30.0, float(sample.max()) + 30.0
    for _ in range(50):
        middle = (low + high) / 2
        if np.mean(weight / (1 + np.exp(middle - sample))) > ctr:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _clicked_before(pair: Ints, click: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Whether the same (user, item) pair was clicked in an earlier row."""
    order = np.argsort(pair, kind="stable")
    clicks: Ints = np.cumsum(click[order]) - click[order]  # before this row
    new = np.concatenate([[True], np.diff(pair[order]) != 0])
    base = np.maximum.accumulate(np.where(new, clicks, 0))
    before = np.empty(len(pair), bool)
    before[order] = clicks > base
    return before
