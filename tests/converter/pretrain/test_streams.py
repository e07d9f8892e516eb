from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.pretrain import streams
from converter.pretrain.streams import CARRY_LIMIT, recursion, stream

seeds = st.integers(0, 2**63 - 1)


@given(seeds, st.integers(20, 3000), st.sampled_from([1, 4, 16]))
@settings(deadline=None)
def test_streams_are_finite_and_follow_from_the_seed(seed, length, pool):
    made, step = stream(np.random.default_rng(seed), length, pool)
    assert made.shape == (length,)
    assert made.dtype == np.float64
    assert np.isfinite(made).all()
    again, same = stream(np.random.default_rng(seed), length, pool)
    np.testing.assert_array_equal(made, again)
    assert same == step
    if step:
        np.testing.assert_allclose(made / step, np.round(made / step), atol=1e-6)


@pytest.mark.parametrize("process", streams._PROCESSES)
@pytest.mark.parametrize("seed", range(20))
def test_every_process_is_finite_and_moves(process, seed):
    made, _ = process(np.random.default_rng(seed), 2000, 4)
    assert np.isfinite(made).all()
    assert len(made) == 2000
    assert np.ptp(made) > 0


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_whole_and_never_below_nothing(seed):
    made, step = streams._counts(np.random.default_rng(seed), 2000, 1)
    assert step == 1
    np.testing.assert_array_equal(made, np.round(made))
    assert made.min() >= 0


def test_weekends_differ_from_weekdays():
    # In some week, some day is nothing like the day before; on working days it is, but for noise.
    apart = []
    for seed in range(10):
        made, _ = streams._week(np.random.default_rng(seed), 14 * 288 * 2, 1)
        day = min((24, 48, 96, 144, 288), key=lambda one: np.abs(made[7 * one :] - made[: -7 * one]).mean())
        weekly = np.abs(made[7 * day :] - made[: -7 * day]).mean()
        daily = np.abs(made[day:] - made[:-day]).mean()
        apart.append(daily > weekly)
    assert np.mean(apart) > 0.8


@given(seeds, st.integers(1, 400), st.floats(-0.99, 0.99))
@settings(deadline=None)
def test_a_recursion_by_doubling_is_the_recursion(seed, length, factor):
    given_ = np.random.default_rng(seed).normal(size=length)
    expected, last = np.empty(length), 0.0
    for place, value in enumerate(given_):
        last = factor * last + value
        expected[place] = last
    np.testing.assert_allclose(recursion(given_, factor), expected, rtol=1e-6, atol=1e-6)


@given(seeds, st.integers(2, 1000))
@settings(deadline=None)
def test_short_gaps_are_filled_with_the_value_before(seed, length):
    x = np.arange(length, dtype=np.float64)
    carried = streams._carried(np.random.default_rng(seed), x)
    assert carried[0] == 0
    behind = x - carried
    assert (behind >= 0).all()
    kept = behind == 0
    assert (kept | (carried == np.maximum.accumulate(np.where(kept, x, 0)))).all()


def test_a_gap_alone_is_no_longer_than_the_agent_s_limit():
    class One:
        """A generator that makes one gap, of the largest length."""

        def choice(self, _shares):
            return 0.0

        def integers(self, low, high, count):
            return np.full(count, high - 1 if low == 1 and high == CARRY_LIMIT + 1 else 10)

    carried = streams._carried(One(), np.arange(100.0))
    assert (carried != np.arange(100.0)).sum() == CARRY_LIMIT
