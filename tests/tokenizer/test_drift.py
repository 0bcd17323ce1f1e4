"""Drift figures against their definitions."""

import numpy as np
import pytest

from dasrec.tokenizer.drift import drift, drift_sentence

OLD, NEW, DIM = 400, 50, 4


def rows(scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Encodings on a grid that is the codebook; new rows lie `scale` times as far from it."""
    rng = np.random.default_rng(0)
    new = np.arange(OLD + NEW) % 9 == 0
    z = rng.integers(5, size=(OLD + NEW, DIM)).astype(np.float32)
    noise = 0.2 * rng.normal(size=z.shape) * np.where(new, scale, 1)[:, None]
    return (z + noise).astype(np.float32), z, new


def test_figures_by_definition() -> None:
    h, z, new = rows(3.0)
    found = drift(h, z, new)
    error = ((h.astype(float) - z) ** 2).sum(1)
    old, fresh = error[~new], error[new]
    spread = h[~new].astype(float).var(0).sum()
    grid = np.sort(error)
    ks = max(abs((old <= x).mean() - (fresh <= x).mean()) for x in grid)
    assert found == {
        "new_rows": new.sum(),
        "error_published": pytest.approx(old.mean() / spread, rel=1e-4),
        "error_new": pytest.approx(fresh.mean() / spread, rel=1e-4),
        "ks": pytest.approx(ks, abs=1e-6),
        "beyond_95": pytest.approx((fresh > np.sort(old)[int(0.95 * OLD)]).mean(), abs=0.02),
        "beyond_99": pytest.approx((fresh > np.sort(old)[int(0.99 * OLD)]).mean(), abs=0.02),
    }


def test_far_rows_call_for_training_and_near_rows_do_not() -> None:
    near, far = drift(*rows(1.0)), drift(*rows(3.0))
    assert near["ks"] < 0.2
    assert far["ks"] > 0.7
    assert far["error_new"] == pytest.approx(9 * far["error_published"], rel=0.3)
    assert "consider re-training" in drift_sentence("item", far)
    assert "the codebook still fits" in drift_sentence("item", near)


def test_a_few_odd_rows_are_no_drift() -> None:
    far = {"error_published": 0.1, "error_new": 0.2, "ks": 0.4, "beyond_95": 0.2}
    assert "consider re-training" in drift_sentence("item", far | {"new_rows": 100.0})
    assert "still fits" in drift_sentence("item", far | {"new_rows": 10.0})  # may be chance
    near = far | {"error_new": 0.05, "new_rows": 100.0}  # another distribution, but closer
    assert "still fits" in drift_sentence("item", near)
    assert drift_sentence("item", near).startswith("100 new items: quantization error 0.050 of")


def test_nothing_new_is_no_drift() -> None:
    h, z, new = rows(1.0)
    assert drift(h, z, np.zeros_like(new)) == {"new_rows": 0}
    assert drift_sentence("user", {"new_rows": 0.0}) == "0 new users: no drift to measure."
    assert drift(h, z, np.ones_like(new)) == {"new_rows": len(new)}
