"""Does anything learned know held-out events? Ask again with other items in their place.

What may be learned from is the training interactions alone, and a list may know only what came
before its query. So popularity, co-occurrence, user texts, vectors and lists that are made again
from a *blinded* corpus, one in which held-out events hold other items, must be what they were. A
leak, whether in an artifact or in the code, is a difference.

Shape letters: N interactions, U users, I items, Q queries, W list width.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from dasrec.core.cooccurrence import pair_counts
from dasrec.core.corpus import SPLITS, Corpus, Int64s
from dasrec.core.recommendations import Recommendations
from dasrec.core.seeding import generator
from dasrec.core.texts import user_texts

TOLERANCE = 1e-4
"""Floats made again on another machine differ by less; a leaked event moves its row by more."""

BY_TIME = ("global_time", "sliding_window")
"""Splits that promise that nothing of after the first held-out event is trained on."""

WINDOW = 5
"""Places apart of the pairs that are counted."""


class Finding(NamedTuple):
    """What one check says."""

    what: str
    """E.g. "popularity" or "recommendations/item_knn"."""
    clean: bool | None
    """None: could not be checked."""
    detail: str


class Blinding(NamedTuple):
    """A corpus with other items in some held-out events, and what must stay as it was."""

    corpus: Corpus
    queries: Int64s
    """(Q,) queries whose lists must not change."""


def blind(corpus: Corpus, rows: npt.NDArray[np.bool_]) -> Corpus:
    """The corpus with another item, drawn at random, in each of the (N,) chosen rows."""
    count = int(rows.sum())
    if corpus.num_items < 2:
        raise ValueError("leakage: a catalogue of one item cannot be blinded")
    item_idx = np.array(corpus.item_idx)
    shift = generator(0, "leakage").integers(1, corpus.num_items, count)
    item_idx[rows] = (item_idx[rows] + shift) % corpus.num_items
    return dataclasses.replace(corpus, item_idx=item_idx)


def blind_training(corpus: Corpus) -> Blinding:
    """All held-out events blinded: no statistic of training, and no user's first list, may change.

    Finds held-out events that were learned from.
    """
    held_out = np.asarray(corpus.split != SPLITS["train"])
    queries = np.sort(np.concatenate([corpus.queries("valid"), corpus.queries("test")]))
    return Blinding(blind(corpus, held_out), queries[~held_out[queries - 1]])


def blind_targets(corpus: Corpus) -> Blinding:
    """Every user's last event blinded where it is held out: no list may change at all.

    Finds lists that know their own target.
    """
    queries = np.sort(np.concatenate([corpus.queries("valid"), corpus.queries("test")]))
    last = np.zeros(len(corpus.split), np.bool_)
    last[corpus.user_start[1:][np.diff(corpus.user_start) > 0] - 1] = True
    return Blinding(blind(corpus, last & (corpus.split != SPLITS["train"])), queries)


def check_order(corpus: Corpus) -> Finding:
    """No user has a training event behind a held-out one."""
    back = (np.diff(corpus.split) < 0) & (np.diff(corpus.user_idx) == 0)
    detail = f"{int(back.sum())} events lie in an earlier part than the user's event before them"
    return Finding("split", not back.any(), detail)


def check_time(corpus: Corpus) -> Finding:
    """No training event is later than a held-out one, whoever's: promised by cuts in time alone.

    Leave-one-out lets a model train on other users' events of after the test moment (Ji et al.,
    2023, arXiv:2010.11060): no fault of the run, but said. An event counts as of the latest moment
    of its user so far, as in `dasrec.core.split.split_global_time`.
    """
    train = np.asarray(corpus.split == SPLITS["train"])
    if train.all() or not train.any():
        return Finding("time", None, "nothing is held out, or nothing is for training")
    span = int(corpus.timestamp.max()) - int(corpus.timestamp.min()) + 1
    key = corpus.user_idx.astype(np.int64) * span + (corpus.timestamp - corpus.timestamp.min())
    moment = np.maximum.accumulate(key) - corpus.user_idx.astype(np.int64) * span
    late = moment[train] > moment[~train].min()
    detail = f"{late.mean():.1%} of the training events are later than the first held-out one"
    promised = corpus.manifest.config.get("split", {}).get("method") in BY_TIME
    return Finding("time", not late.any() if promised or not late.any() else None, detail)


def check_statistics(
    corpus: Corpus, texts: Callable[[Corpus], pl.Series] = user_texts
) -> list[Finding]:
    """What popularity, co-occurrence and user texts are made of, before and after blinding.

    Args:
        corpus: the corpus.
        texts: makes the users' texts as the run's encoder reads them.
    """
    blinded = blind_training(corpus).corpus
    made: dict[str, Callable[[Corpus], Any]] = {
        "popularity": lambda c: c.train_item_count,
        "co-occurrence": lambda c: _entries(pair_counts(c, WINDOW)),
        "training sequences": lambda c: np.concatenate(c.train_sequences),
        "user texts": lambda c: "\n".join(texts(c)),
    }
    findings = []
    for what, make in made.items():
        before, after = digest(make(corpus)), digest(make(blinded))
        if what == "popularity":  # and counted in another way
            after = after if digest(_counted(corpus)) == before else digest(_counted(corpus))
        findings.append(_compared(what, before, after))
    return findings


def check_vectors(what: str, stored: npt.ArrayLike, again: npt.ArrayLike) -> Finding:
    """Vectors of an artifact against those made again from a blinded corpus."""
    one, two = np.asarray(stored), np.asarray(again)
    if one.shape != two.shape:
        return Finding(what, False, f"made again it has the shape {two.shape}, not {one.shape}")
    if digest(one) == digest(two):
        return Finding(what, True, f"{digest(one)}, the same bytes")
    different = (np.abs(one - two) > TOLERANCE).any(axis=1)
    detail = f"{int(different.sum())} of {len(one)} rows differ from what training gives"
    return Finding(what, not different.any(), detail)


def check_lists(
    what: str, stored: Recommendations, again: Recommendations, queries: Int64s
) -> Finding:
    """Lists of an artifact against those made again from a blinded corpus, for some queries."""
    kept = stored.queries[np.isin(stored.queries, queries)]
    rows, rows_again = (np.searchsorted(found.queries, kept) for found in (stored, again))
    one, two = stored.item_idx[rows], again.item_idx[rows_again]
    if one.shape != two.shape:
        return Finding(what, False, f"made again they are {two.shape[1]} wide, not {one.shape[1]}")
    same_scores = np.isclose(stored.score[rows], again.score[rows_again], rtol=1e-4, atol=1e-6)
    different = ((one != two) | ~same_scores).any(axis=1)
    detail = f"{int(different.sum())} of {len(kept)} lists differ from what may be known"
    return Finding(what, not different.any(), detail)


def digest(values: Any) -> str:
    """Short sha256 of an array's values, or of a text."""
    raw = values.encode() if isinstance(values, str) else np.ascontiguousarray(values).tobytes()
    return hashlib.sha256(raw).hexdigest()[:16]


def _compared(what: str, before: str, after: str) -> Finding:
    if before == after:
        return Finding(what, True, before)
    return Finding(what, False, f"{before}, but {after} without the held-out events")


def _counted(corpus: Corpus) -> Int64s:
    """(I,) training interactions of each item, from the arrays alone."""
    table = pl.DataFrame({"item": np.asarray(corpus.item_idx), "split": np.asarray(corpus.split)})
    counts = table.filter(pl.col("split") == SPLITS["train"]).group_by("item").len()
    result = np.zeros(corpus.num_items, np.int64)
    result[counts["item"].to_numpy()] = counts["len"].to_numpy()
    return result


def _entries(matrix: Any) -> npt.NDArray[np.float64]:
    entries = matrix.tocoo()
    order = np.lexsort((entries.col, entries.row))
    return np.stack([entries.row[order], entries.col[order], entries.data[order]])
