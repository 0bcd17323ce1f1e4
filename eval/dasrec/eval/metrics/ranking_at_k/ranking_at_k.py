"""`evaluate` module over `dasrec.eval.scorecard`: recall, NDCG, hit rate, MRR, MAP and more at K.

`evaluate` copies this file into its cache and reads its imports line by line with a regular
expression: never write two modules after one `import`.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import datasets
import evaluate
import numpy as np
import numpy.typing as npt

from dasrec.core.corpus import Ragged
from dasrec.eval.ranking_metrics import rank_of_target, ranks_of_targets
from dasrec.eval.scorecard import Backdrop, score_lists

DESCRIPTION = """
Ranking metrics of item lists: recall@K, ndcg@K, hr@K, mrr@K and map@K, per query first, then the
mean; and, with what they need, popularity bias, novelty, diversity, serendipity and coverage.
Items, not semantic-ID strings, are compared; short and empty lists count as misses.
"""

INPUTS = """
Args:
    predictions: one list of item indices per query, best first; lengths may differ, -1 = no item.
    references: one item index per query, or one list of item indices per query.
    ks: cut-offs, (5, 10, 20) unless given.
    slices: {name: (Q,) bool}; each adds `metric@K[name]`; one without queries adds nothing.
    train_item_count: (I,) training interactions of each item; adds coverage@K, gini@K,
        popularity@K, novelty@K, invalid_rate@K and duplicate_rate@K.
    profiles: one list of item indices per query, its history; with train_item_count: adds
        popularity_gap@K.
    item_vectors: (I, D) vectors of the items; adds diversity@K.
    expected: one list of item indices per query, best first, by a primitive method; adds
        serendipity@K, the recall of what that method does not list.

Returns:
    A flat dict of floats, e.g. {"recall@10": ..., "ndcg@10[tie_free]": ...}.
"""


class RankingAtK(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """What `evaluate.load` makes an instance of."""

    def _info(self) -> Any:
        index = datasets.Value("int64")
        lists = datasets.Sequence(index)
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=[
                datasets.Features({"predictions": lists, "references": index}),
                datasets.Features({"predictions": lists, "references": lists}),
            ],
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[int]],
        references: Sequence[Any],
        ks: Sequence[int] = (5, 10, 20),
        slices: Mapping[str, npt.NDArray[np.bool_]] | None = None,
        train_item_count: npt.NDArray[np.int64] | None = None,
        profiles: Sequence[Sequence[int]] | None = None,
        item_vectors: npt.NDArray[np.floating] | None = None,
        expected: Sequence[Sequence[int]] | None = None,
    ) -> dict[str, float]:
        one_each = not isinstance(references[0], Sequence)
        targets = np.asarray(references) if one_each else _ragged(references)
        backdrop = Backdrop(
            train_item_count,
            None if profiles is None else _ragged(profiles),
            item_vectors,
            None if expected is None else _ranks(_padded(expected), targets),
        )
        lists = _padded(predictions)
        starts = targets.starts if isinstance(targets, Ragged) else None
        card = score_lists(lists, _ranks(lists, targets), ks, backdrop, starts)
        result = dict(card.overall)
        for part, mask in (slices or {}).items():
            if mask.any():
                result |= {f"{n}[{part}]": float(v[mask].mean()) for n, v in card.accuracy.items()}
        return result


def _ranks(lists: npt.NDArray[np.int32], targets: Any) -> npt.NDArray[np.int64]:
    ragged = isinstance(targets, Ragged)
    return ranks_of_targets(lists, targets) if ragged else rank_of_target(lists, targets)


def _ragged(rows: Sequence[Sequence[int]]) -> Ragged:
    starts = np.cumsum([0, *map(len, rows)])
    values = np.fromiter(chain.from_iterable(rows), np.int32, int(starts[-1]))
    return Ragged(values, starts)


def _padded(rows: Sequence[Sequence[int]]) -> npt.NDArray[np.int32]:
    values, starts = _ragged(rows)
    lengths = np.diff(starts)
    lists = np.full((len(rows), max(1, int(lengths.max()))), -1, np.int32)
    lists[np.arange(lists.shape[1]) < lengths[:, None]] = values
    return lists
