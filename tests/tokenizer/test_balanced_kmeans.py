import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from dasrec.tokenizer.balanced_kmeans import _round, assign_within, balanced_kmeans, distances


@pytest.mark.parametrize(("rows", "size"), [(60, 12), (61, 12), (50, 50), (7, 1)])
def test_no_cluster_exceeds_its_capacity(rows: int, size: int) -> None:
    x = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32) ** 3
    capacity = -(-rows // size)
    centroids, cluster = balanced_kmeans(x, size, seed=0)
    assert centroids.shape == (size, 3)
    assert np.bincount(cluster, minlength=size).max() <= capacity
    assert cluster.min() >= 0


def test_rounds_by_hand() -> None:
    """All want cluster 0, which has room for two; rows 1 and 3 would lose most elsewhere."""
    cost = np.array([[0.0, 1.0], [0.0, 5.0], [0.0, 2.0], [1.0, 9.0]])
    assert _round(cost, 2).tolist() == [1, 0, 1, 0]


def test_assignment_is_close_to_the_optimal_one() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(120, 4)).astype(np.float32)
    cost = distances(x, x[:10])
    rows, slots = linear_sum_assignment(np.repeat(cost, 12, axis=1))
    best = cost[rows, slots // 12].sum() + np.square(x).sum()
    found = cost[np.arange(120), assign_within(cost, 12)].sum() + np.square(x).sum()
    assert best <= found + 1e-3
    assert found < 1.05 * best


def test_ample_capacity_leaves_every_row_where_it_is_cheapest() -> None:
    cost = np.random.default_rng(2).random((40, 6))
    np.testing.assert_array_equal(_round(cost, 40), cost.argmin(1))


def test_separate_even_clusters_are_found_and_reproduced() -> None:
    rng = np.random.default_rng(3)
    centre = 10 * rng.normal(size=(8, 5))
    truth = np.arange(80) % 8
    x = (centre[truth] + 0.1 * rng.normal(size=(80, 5))).astype(np.float32)
    centroids, cluster = balanced_kmeans(x, 8, seed=0)
    assert len(set(zip(truth, cluster, strict=True))) == 8
    again, _ = balanced_kmeans(x, 8, seed=0)
    np.testing.assert_array_equal(centroids, again)
    mean = np.stack([x[cluster == k].mean(0) for k in range(8)])
    np.testing.assert_allclose(centroids, mean, rtol=1e-4, atol=1e-4)
