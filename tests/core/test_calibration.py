from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from agent.core.calibration import MIN_SCALE, Calibration, beyond_support, fit_tail


def test_there_is_no_p_value_before_enough_scores_or_for_a_missing_one():
    calibration = Calibration(1, 200)
    assert np.isnan(calibration.p_values(np.zeros(1, np.float32)))
    calibration.fill(0, np.arange(100, dtype=np.float32))
    assert np.isnan(calibration.p_values(np.full(1, np.nan, np.float32)))


def test_p_values_are_ranks_in_the_body():
    calibration = Calibration(1, 200)
    calibration.fill(0, np.arange(100, dtype=np.float32))
    assert calibration.p_values(np.full(1, 50.0, np.float32))[0] == pytest.approx(51 / 101)


@pytest.mark.parametrize(("draw", "least", "most"), [("exponential", 0.33, 3.0), ("normal", 0.0, 2.0)])
def test_the_tail_reaches_far_beyond_the_past_and_is_cautious_with_light_tails(draw, least, most):
    rng = np.random.default_rng(3)
    calibration = Calibration(1, 2500)
    calibration.fill(0, getattr(rng, draw)(size=2500).astype(np.float32))
    fresh = getattr(rng, draw)(size=1_000_000).astype(np.float32)
    for promised in (1e-2, 1e-3, 1e-4):
        grid = np.linspace(0, 15, 3000, dtype=np.float32)
        p = np.array([calibration.p_values(np.full(1, g, np.float32))[0] for g in grid])
        threshold = grid[np.argmax(p < promised)]
        assert least <= (fresh >= threshold).mean() / promised < most


def test_p_values_never_rise_with_the_score():
    rng = np.random.default_rng(0)
    calibration = Calibration(1, 500)
    calibration.fill(0, rng.gamma(2, size=500).astype(np.float32))
    p = [calibration.p_values(np.full(1, s, np.float32))[0] for s in np.linspace(0, 30, 400)]
    assert all(a >= b - 1e-3 for a, b in pairwise(p))


def test_a_known_tail_is_recovered():
    rng = np.random.default_rng(1)
    shape, scale = fit_tail(0.5 * ((1 - rng.random(200_000)) ** -0.2 - 1) / 0.2)
    assert shape == pytest.approx(0.2, abs=0.02)
    assert scale == pytest.approx(0.5, abs=0.02)


def test_tails_without_spread_or_without_mean_stay_finite():
    assert fit_tail(np.zeros(20)) == (0.0, MIN_SCALE)
    assert fit_tail(np.r_[np.zeros(50), 1e6])[0] == 0.5


def test_a_rolling_past_forgets_and_resumes():
    calibration = Calibration(2, 60)
    for i in range(200):
        calibration.add(np.array([i, np.nan], np.float32))
        calibration.p_values(np.array([i, 0.0], np.float32))
    assert calibration.count.tolist() == [60, 0]
    again = Calibration(2, 60)
    again.restore(calibration.snapshot())
    probe = np.array([170.0, 1.0], np.float32)
    assert np.array_equal(again.p_values(probe), calibration.p_values(probe), equal_nan=True)
    again.grow(3)
    assert again.count.tolist() == [60, 0, 0]


def test_budgets_beyond_any_support_are_named():
    assert not beyond_support(1 / 604_800)
    assert beyond_support(1e-9)
