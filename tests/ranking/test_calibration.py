"""Calibration: known maps are found again, and the order of scores stays."""

import numpy as np
import pytest
from scipy.special import expit

from dasrec.eval.ctr_metrics import logloss
from dasrec.ranking.calibration import Calibration, calibration_figures, fit_calibration

RNG = np.random.default_rng(0)
TRUE = RNG.normal(-1, 1, 40_000)
LABEL = (RNG.random(len(TRUE)) < expit(TRUE)).astype(np.float32)


def test_platt_finds_slope_and_intercept_again() -> None:
    distorted = (TRUE + 0.7) / 0.5
    found = fit_calibration("platt", LABEL, distorted)
    assert found.slope == pytest.approx(0.5, rel=0.03)
    assert found.intercept == pytest.approx(-0.7, abs=0.03)
    # the minimum of the log loss: no neighbour is better
    best = logloss(LABEL, found.slope * distorted + found.intercept)
    for slope, intercept in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
        moved = (found.slope + slope) * distorted + found.intercept + intercept
        assert logloss(LABEL, moved) > best


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_probabilities_become_calibrated_on_other_rows(method: str) -> None:
    distorted = 3 * TRUE + 1
    half = len(TRUE) // 2
    found = fit_calibration(method, LABEL[:half], distorted[:half])  # type: ignore[arg-type]
    figures = calibration_figures(found, LABEL[half:], distorted[half:])
    assert figures["before"]["ece"] > 0.1
    assert figures["after"]["ece"] < 2 * figures["after"]["ece_floor"]
    assert figures["after"]["pcoc"] == pytest.approx(1, abs=0.03)
    assert figures["after"]["logloss"] < figures["before"]["logloss"]
    got = found(np.sort(distorted))
    assert (np.diff(got) >= 0).all()
    assert 0 < got.min() < got.max() < 1


def test_isotonic_equals_pool_adjacent_violators_by_hand() -> None:
    logits = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    found = fit_calibration("isotonic", [0, 1, 0, 1, 1], logits)  # violators: 1, 0 -> 1/2, 1/2
    np.testing.assert_allclose(found(logits), [0.1, 0.5, 0.5, 0.9, 0.9])
    np.testing.assert_allclose(found([-9, -1.5, 0.5, 9]), [0.1, 0.3, 0.7, 0.9])


def test_none_is_the_sigmoid_and_a_model_without_skill_gets_the_click_rate() -> None:
    assert fit_calibration("none", LABEL, TRUE) == Calibration()
    np.testing.assert_allclose(Calibration()([0.0, 2.0]), expit([0.0, 2.0]), rtol=1e-6)
    upside_down = fit_calibration("platt", LABEL, -TRUE)
    low, high = upside_down([-5.0, 5.0])
    assert LABEL.mean() == pytest.approx(low, rel=0.01) == pytest.approx(high, rel=0.01)
    assert low < high


def test_survives_json() -> None:
    found = fit_calibration("isotonic", LABEL[:500], TRUE[:500])
    assert Calibration.model_validate_json(found.model_dump_json()) == found
