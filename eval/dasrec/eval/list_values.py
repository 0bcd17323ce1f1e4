"""What each list is like, query by query: popularity, novelty, diversity, serendipity.

Lists as in `dasrec.eval.ranking_metrics`: rows of item indices, best first, -1 where there is no
item; an index of the catalogue size or more is no item either. A list without items (for diversity:
with fewer than two) has no value: NaN, which `mean_known` leaves out.

Shape letters: Q queries, W list width, I items, K cut-off, D width of vectors, H history events.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from dasrec.core.corpus import Ragged
from dasrec.eval.ranking_metrics import Floats, Int64s, Ints, recall_at_k

Bools = npt.NDArray[np.bool_]
_BLOCK = 1 << 20  # numbers of sums held at a time; bounds memory, never changes a result


def first_k(item_idx: Ints, k: int, num_items: int) -> tuple[Ints, Bools]:
    """(Q, K) first items of the lists, and which of them are items of the catalogue.

    Raises:
        ValueError: no lists, or a cut-off below 1.
    """
    if k < 1:
        raise ValueError(f"list metrics: k must be at least 1, got {k}")
    if item_idx.ndim != 2 or len(item_idx) == 0:
        raise ValueError(f"list metrics: expected lists (Q, W), Q > 0, got {item_idx.shape}")
    top = item_idx[:, :k]
    return top, (top >= 0) & (top < num_items)


def list_popularity(item_idx: Ints, k: int, train_item_count: Ints) -> Floats:
    """(Q,) mean training interactions of the items in the first K.

    >>> list_popularity(np.array([[0, 1], [1, -1], [-1, -1]]), 2, np.array([4, 2]))
    array([ 3.,  2., nan])
    """
    return _mean_of_list(item_idx, k, np.asarray(train_item_count, np.float64))


def list_novelty(item_idx: Ints, k: int, train_item_count: Ints) -> Floats:
    """(Q,) mean self-information -log2 p(i) of the first K, in bits (Zhou et al., 2010).

    p(i) = (train count of i + 1) / (all train counts + I): the added one keeps items without a
    training interaction finite.

    >>> list_novelty(np.array([[0], [1]]), 1, np.array([5, 1]))  # 6/8 and 2/8
    array([0.4150375, 2.       ])
    """
    return _mean_of_list(item_idx, k, self_information(train_item_count))


def self_information(train_item_count: Ints) -> Floats:
    """(I,) bits of every item, see `list_novelty`."""
    count = np.asarray(train_item_count, np.float64)
    bits: Floats = -np.log2((count + 1) / (count.sum() + len(count)))
    return bits


def profile_popularity(profiles: Ragged, train_item_count: Ints) -> Floats:
    """(Q,) mean training interactions of the items of each history; NaN for an empty one.

    >>> profile_popularity(Ragged(np.array([0, 1, 1]), np.array([0, 2, 2, 3])), np.array([4, 2]))
    array([ 3., nan,  2.])
    """
    lengths = np.diff(profiles.starts)
    row = np.repeat(np.arange(len(lengths)), lengths)
    sums = np.bincount(row, np.asarray(train_item_count)[profiles.values], minlength=len(lengths))
    return _divided(sums, lengths)


def list_diversity(item_idx: Ints, ks: Sequence[int], item_vectors: npt.ArrayLike) -> list[Floats]:
    """Intra-list diversity: mean cosine distance of all pairs in the first K.

    Smyth and McClave, ICCBR 2001. With unit vectors u: 1 - (|sum u|^2 - sum |u|^2) / (n (n - 1)),
    so pairs are never formed. An item without a vector (zeros) is at distance 1 from all others; a
    repeated one at 0 from itself.

    Args:
        item_idx: (Q, W) lists.
        ks: cut-offs, ascending.
        item_vectors: (I, D) vectors of any length.

    Returns:
        (Q,) values for each cut-off.

    >>> list_diversity(np.array([[0, 1, 2]]), (2, 3), np.array([[2, 0], [1, 0], [0, 3]]))
    [array([0.]), array([0.666...])]
    """
    vectors = np.asarray(item_vectors, np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(length > 0, length, 1)
    square = (length[:, 0] > 0).astype(np.float64)  # |u|^2: 1, or 0 for an item without a vector
    values = [np.full(len(item_idx), np.nan) for _ in ks]
    step = max(1, _BLOCK // vectors.shape[1])
    for start in range(0, len(item_idx), step):
        block = slice(start, start + step)
        sums, held = np.zeros((len(item_idx[block]), vectors.shape[1])), 0
        for value, k in zip(values, ks, strict=True):
            top, real = first_k(item_idx[block], k, len(vectors))
            sums += _incidence(top[:, held:], real[:, held:], len(vectors)) @ unit
            held, count = k, real.sum(1)
            own = np.where(real, square[np.where(real, top, 0)], 0.0).sum(1)
            together = np.einsum("qd,qd->q", sums, sums) - own
            value[block] = np.where(count > 1, 1 - _divided(together, count * (count - 1)), np.nan)
    return values


def serendipity_at_k(
    ranks: Int64s, expected_ranks: Int64s, k: int, starts: Int64s | None = None
) -> Floats:
    """(Q,) share of a query's targets that are in the first K, and not in the primitive's first K.

    Relevant and unexpected items, unexpected = not listed by a primitive method (Murakami et al.
    2008; Ge, Delgado-Battenfeld and Jannach 2010, doi:10.1145/1864708.1864761). They divide the
    hits by K; here they are divided by |T| as in recall, so that recall@K - serendipity@K is the
    share of the targets that the primitive would have listed too.

    Args:
        ranks: of the targets, as for `dasrec.eval.ranking_metrics.recall_at_k`.
        expected_ranks: of the same targets in the primitive's lists, 0 where they are not in them.
        k: cut-off of both.
        starts: (Q + 1,) row starts of the targets where queries have several.

    >>> serendipity_at_k(np.array([1, 3, 2, 0]), np.array([2, 0, 9, 0]), 3)
    array([0., 1., 1., 0.])
    """
    expected = (np.asarray(expected_ranks) >= 1) & (np.asarray(expected_ranks) <= k)
    return recall_at_k(np.where(expected, 0, ranks), k, starts)


def popularity_gap(lists: Floats, profiles: Floats) -> float:
    """Delta GAP: relative difference of the lists' mean popularity from that of the histories.

    (mean of lists - mean of histories) / mean of histories (Abdollahpouri et al. 2019,
    arXiv:1907.13286, eq. 1 and 2), over the queries that have both: 0 = as popular as what the
    users took, 1 = twice as popular. NaN where no history has any popularity.

    Args:
        lists: (Q,) from `list_popularity`.
        profiles: (Q,) from `profile_popularity`.

    >>> popularity_gap(np.array([6.0, 3.0, np.nan]), np.array([4.0, 2.0, 9.0]))
    0.5
    """
    both = np.isfinite(lists) & np.isfinite(profiles)
    held = float(profiles[both].sum())
    return float(lists[both].sum()) / held - 1 if held else float("nan")


def mean_known(values: Floats) -> float:
    """Mean of the values that are not NaN; NaN without any."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _mean_of_list(item_idx: Ints, k: int, value: Floats) -> Floats:
    top, real = first_k(item_idx, k, len(value))
    sums = np.where(real, value[np.where(real, top, 0)], 0.0).sum(1)
    return _divided(sums, real.sum(1))


def _divided(sums: npt.NDArray[Any], counts: Ints) -> Floats:
    result = np.full(len(sums), np.nan)
    np.divide(sums, counts, out=result, where=counts > 0)
    return result


def _incidence(top: Ints, real: Bools, num_items: int) -> sparse.csr_array:
    """(Q, I) float32: how often each list holds each item."""
    starts = np.concatenate([[0], np.cumsum(real.sum(1))])
    ones = np.ones(starts[-1], np.float32)
    return sparse.csr_array((ones, top[real], starts), shape=(len(top), num_items))
