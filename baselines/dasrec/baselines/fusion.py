r"""Several methods' lists as one, by weighted reciprocal rank.

    score(i) = sum over methods m of w_m / (c + rank_m(i)),  0 from a list that does not hold i

Cormack, Clarke and Buettcher 2009 (doi:10.1145/1571941.1572114), with weights that are chosen on
the validation queries.

Shape letters: Q queries, W width of a list, M methods, P different (query, item) pairs.
"""

import itertools
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from dasrec.core import (
    SPLITS,
    Corpus,
    Manifest,
    Recommendations,
    StageConfig,
    check_free,
    load_recommendations,
    write_recommendations,
)
from dasrec.core.catalogue_lists import ranked_lists
from dasrec.core.corpus import Int64s
from dasrec.eval.ranking_metrics import ndcg_at_k

log = logging.getLogger(__name__)

Float64s = npt.NDArray[np.float64]


class FusionConfig(StageConfig):
    """Which lists are merged, and how."""

    methods: tuple[str, ...] = Field(min_length=2)
    """Names of the methods whose lists are merged."""

    weights: tuple[float, ...] | None = None
    """One for each method; none given = the best by NDCG@10 on the validation queries."""

    steps: int = Field(10, ge=1)
    """Weights to try: all multiples of 1 / steps that add up to 1."""

    rank_constant: float = Field(10.0, ge=0)
    """c: the larger, the less the first places stand out. 60 is usual for long lists; 10 was chosen
    on validation of lists of 50."""

    width: int = Field(50, ge=1)
    """Items per list."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods: one is named twice, got {', '.join(self.methods)}")
        given = self.weights
        if given is not None and (
            len(given) != len(self.methods) or min(given) < 0 or not any(given)
        ):
            raise ValueError(
                f"weights: expected {len(self.methods)} of at least 0, not all 0, got {list(given)}"
            )
        return self


def fuse(
    config: FusionConfig,
    corpus: Corpus,
    lists: Mapping[str, Path],
    out: Path,
    *,
    seed: int = 0,
    replace: bool = False,
) -> Manifest:
    """Merge the lists of the queries that all methods answered.

    Args:
        config: methods and weights.
        corpus: what all lists were made from; its validation targets choose the weights.
        lists: Recommendations artifacts by method, of all methods of the config.
        out: directory of the new Recommendations artifact.
        seed: kept in the manifest; nothing here is random.
        replace: swap an artifact that is already at `out`.

    Raises:
        FileExistsError: `out` exists and `replace` is false.
        ValueError: no query that all methods answered, or none of the validation split to choose
            the weights on.
    """
    check_free(Path(out), replace)
    began = time.perf_counter()
    loaded = {name: load_recommendations(lists[name], corpus) for name in config.methods}
    queries = _common_queries(loaded)
    pairs = _pairs(config, loaded, queries, corpus.num_items)
    weights, metrics = _choose_weights(config, pairs, corpus, queries)
    score_P = pairs.terms_PM @ np.array(weights)
    kept = score_P > 0
    items, scores = ranked_lists(
        pairs.row_P[kept], pairs.item_P[kept], score_P[kept], len(queries), config.width
    )
    manifests = {f"lists/{name}": one.manifest for name, one in loaded.items() if one.manifest}
    return write_recommendations(
        out,
        config.as_json(),
        {"corpus": corpus.manifest, **manifests},
        Recommendations(queries, items, scores),
        seed=seed,
        metrics={**metrics, "seconds": round(time.perf_counter() - began, 2)},
        replace=replace,
    )


class _Pairs(NamedTuple):
    """Every item that any list names for a query."""

    row_P: Int64s
    """Place of the query; ascending."""
    item_P: Int64s
    """Ascending within a query."""
    terms_PM: Float64s
    """1 / (c + rank) in each method's list, 0 where it is not in it."""


def _common_queries(loaded: Mapping[str, Recommendations]) -> Int64s:
    first, *others = (one.queries for one in loaded.values())
    for queries in others:
        first = np.intersect1d(first, queries)
    asked = max(len(one.queries) for one in loaded.values())
    if not len(first):
        raise ValueError(
            f"fusion: no query was answered by all of {', '.join(loaded)}; make their lists for "
            "the same splits"
        )
    if len(first) < asked:
        log.warning("fusion: %d queries have no list of every method: left out", asked - len(first))
    return first


def _pairs(
    config: FusionConfig, loaded: Mapping[str, Recommendations], queries: Int64s, num_items: int
) -> _Pairs:
    keys, terms, method = [], [], []
    for number, one in enumerate(loaded.values()):
        items_QW = one.item_idx[np.searchsorted(one.queries, queries)]
        row, column = np.nonzero(items_QW >= 0)
        keys.append(row * num_items + items_QW[row, column])
        terms.append(1 / (config.rank_constant + column + 1))
        method.append(np.full(len(row), number))
    key_P, place = np.unique(np.concatenate(keys), return_inverse=True)
    terms_PM = np.zeros((len(key_P), len(loaded)))
    terms_PM[place, np.concatenate(method)] = np.concatenate(terms)
    return _Pairs(key_P // num_items, key_P % num_items, terms_PM)


def _choose_weights(
    config: FusionConfig, pairs: _Pairs, corpus: Corpus, queries: Int64s
) -> tuple[tuple[float, ...], dict[str, object]]:
    if config.weights is not None:
        return config.weights, {"weights": dict(zip(config.methods, config.weights, strict=True))}
    valid_Q = np.asarray(corpus.split[queries] == SPLITS["valid"])
    if not valid_Q.any():
        raise ValueError(
            f"fusion.weights: the lists of {', '.join(config.methods)} have no validation queries "
            "in common to choose the weights on; make lists for the valid split too, or set weights"
        )
    inside_P = valid_Q[pairs.row_P]
    pairs = _Pairs(*(column[inside_P] for column in pairs))
    target_Q = np.where(valid_Q, corpus.item_idx[queries], -1)
    grid = list(_grid(len(config.methods), config.steps))
    found = [_ndcg(pairs, np.array(weights), target_Q)[valid_Q].mean() for weights in grid]
    best = grid[int(np.argmax(found))]
    chosen = dict(zip(config.methods, best, strict=True))
    log.info("fusion: weights %s, validation NDCG@10 %.4f", chosen, max(found))
    figures = {
        " ".join(f"{weight:g}" for weight in weights): float(value)
        for weights, value in zip(grid, found, strict=True)
    }
    return best, {"weights": chosen, "valid_ndcg@10": figures}


def _grid(num_methods: int, steps: int) -> Iterator[tuple[float, ...]]:
    """Multiples of 1 / steps that add up to 1; the first of equally good ones is taken."""
    for parts in itertools.product(range(steps + 1), repeat=num_methods - 1):
        if (rest := steps - sum(parts)) >= 0:
            yield tuple(part / steps for part in (*parts, rest))


def _ndcg(pairs: _Pairs, weights_M: Float64s, target_Q: npt.NDArray[np.integer]) -> Float64s:
    """(Q,) NDCG@10 of the merged lists, without making them."""
    score_P = pairs.terms_PM @ weights_M
    target_P = target_Q[pairs.row_P]
    hit = np.flatnonzero((pairs.item_P == target_P) & (score_P > 0))
    own_Q = np.full(len(target_Q), np.inf)
    own_Q[pairs.row_P[hit]] = score_P[hit]
    own_P = own_Q[pairs.row_P]
    before_P = (score_P > own_P) | ((score_P == own_P) & (pairs.item_P < target_P))
    rank_Q = 1 + np.bincount(pairs.row_P[before_P], minlength=len(target_Q))
    rank_Q[np.isinf(own_Q)] = 0
    return ndcg_at_k(rank_Q, 10)
