from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.calibration import MIN_SCALE, Calibration, beyond_support, fit_tails, ranks, scores_of
from agent.core.lanes import Lanes


def rows(count, size):
    """Return a calibration with so many rows, and a function that gives the p-values of all of them."""
    made = Calibration(size)
    made.make_room(0, count)
    return made, lambda *scores: made.p_values(Lanes.of((0, count)), np.array(scores, np.float32))


def test_there_is_no_p_value_before_enough_scores_or_for_a_missing_one():
    calibration, p_values = rows(1, 200)
    assert np.isnan(p_values(0.0))
    calibration.fill(0, np.arange(100, dtype=np.float32))
    assert np.isnan(p_values(np.nan))


def test_p_values_are_ranks_in_the_body():
    calibration, p_values = rows(1, 200)
    calibration.fill(0, np.arange(100, dtype=np.float32))
    assert p_values(50.0)[0] == pytest.approx(51 / 101)


@pytest.mark.parametrize(("draw", "least", "most"), [("exponential", 0.33, 3.0), ("normal", 0.0, 2.0)])
def test_the_tail_reaches_far_beyond_the_past_and_is_cautious_with_light_tails(draw, least, most):
    rng = np.random.default_rng(3)
    calibration, p_values = rows(1, 2500)
    calibration.fill(0, getattr(rng, draw)(size=2500).astype(np.float32))
    fresh = getattr(rng, draw)(size=1_000_000).astype(np.float32)
    for promised in (1e-2, 1e-3, 1e-4):
        grid = np.linspace(0, 15, 3000, dtype=np.float32)
        p = np.array([p_values(g)[0] for g in grid])
        threshold = grid[np.argmax(p < promised)]
        assert least <= (fresh >= threshold).mean() / promised < most


def test_p_values_never_rise_with_the_score():
    rng = np.random.default_rng(0)
    calibration, p_values = rows(1, 500)
    calibration.fill(0, rng.gamma(2, size=500).astype(np.float32))
    p = [p_values(s)[0] for s in np.linspace(0, 30, 400)]
    assert all(a >= b - 1e-3 for a, b in pairwise(p))


def test_known_tails_are_recovered():
    rng = np.random.default_rng(1)
    heavy = np.sort(0.5 * ((1 - rng.random(200_000)) ** -0.2 - 1) / 0.2)
    shapes, scales = fit_tails(np.stack([heavy, np.sort(rng.exponential(2.0, 200_000))]))
    assert shapes == pytest.approx([0.2, 0.0], abs=0.02)
    assert scales == pytest.approx([0.5, 2.0], abs=0.04)


def test_tails_without_spread_or_without_mean_stay_finite():
    shapes, scales = fit_tails(np.stack([np.zeros(51), np.r_[np.zeros(50), 1e6]]))
    assert shapes.tolist() == [0.0, 0.5]
    assert scales[0] == MIN_SCALE


def test_a_rolling_past_forgets_and_resumes_in_other_rows():
    calibration, p_values = rows(2, 60)
    for i in range(200):
        calibration.add(np.array([0]), np.array([i], np.float32))
        p_values(i, 0.0)
    assert calibration.count.tolist()[:2] == [60, 0]
    again = Calibration(60)
    again.make_room(0, 5)
    again.restore(3, calibration.snapshot(0, 2))
    probe = np.array([170.0, 1.0], np.float32)
    assert np.array_equal(again.p_values(Lanes.of((3, 5)), probe), p_values(*probe), equal_nan=True)
    assert again.count.tolist()[:3] == [0, 0, 0]


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=50))
def test_ranks_keep_the_order_and_eleven_binary_digits(values):
    scores = np.sort(np.array(values, np.float32))
    ranked = ranks(scores)
    assert (np.diff(ranked.astype(int)) >= 0).all()
    assert scores_of(ranked) == pytest.approx(np.clip(scores, -60000, 60000), rel=2**-11, abs=1e-7)
    assert ranks(np.full(1, -np.inf, np.float32))[0] <= ranked[0]


def test_the_last_score_as_high_is_found_over_the_rings_end():
    calibration, _ = rows(1, 60)
    for i in range(100):
        calibration.add(np.array([0]), np.array([9.0 if i == 70 else i / 100], np.float32))
    assert calibration.last_at_least(0, 5.0, 0) == (29, True)
    assert calibration.last_at_least(0, 0.5, 10) == (10, True)
    assert calibration.last_at_least(0, 99.0, 0) == (60, False)


def test_budgets_beyond_any_support_are_named():
    assert not beyond_support(1 / 604_800)
    assert beyond_support(1e-9)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=80), st.lists(st.integers(0, 20), max_size=20))
def test_forgetting_scores_agrees_with_a_plain_list(added, forgotten):
    calibration = Calibration(40)
    calibration.make_room(0, 2)
    row = np.array([1])
    for one in added:
        calibration.add(row, np.array([one], np.float32))
    oracle = added[-40:]
    calibration.remove(1, np.array(forgotten, np.float32))
    for one in forgotten:
        if one in oracle:
            del oracle[len(oracle) - 1 - oracle[::-1].index(one)]
    calibration.add(row, np.array([99.0], np.float32))
    oracle = [*oracle, 99][-40:]
    count = int(calibration.count[1])
    order = (calibration.head[1] - count + np.arange(count)) % 40
    assert scores_of(calibration.scores[1, order]).tolist() == oracle
    assert (calibration.scores[1, count:] == np.iinfo(np.int16).min).all()
