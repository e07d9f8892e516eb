from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.counters import Counters
from agent.core.types import Sample
from agent.core.windowing import Grid, GridSettings, Spacing
from tests.core.streams import feed, make, normal


def rates(readings, *, even=True, most_steps=6.0, period=1.0):
    """Return the rate of each (time, value), None where none is made."""
    counters = Counters(("n",))
    return [
        counters.rates(at, {"n": value, "t": 5.0}, period, even=even, most_steps=most_steps).get("n")
        for at, value in readings
    ]


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        ([(0, 100), (1, 103), (2, 103), (3, 108)], [None, 3, 0, 5]),
        ([(0, 100), (3, 106), (3.9, 107)], [None, 2, 1]),  # two steps were missed; a reading came early
        ([(0, 100), (7, 800), (8, 801)], [None, None, 1]),  # a gap
        ([(9, 100), (0, 50), (1, 52)], [None, None, 2]),  # a clock that was set back
        ([(0, 100), (1, 110), (2, 4), (3, 9)], [None, 10, None, 5]),  # set back: what it had counted since is lost
        ([(0, 100), (1, 110), (2, 50), (3, 55)], [None, 10, None, 5]),  # set back to some value
        ([(0, 65500), (1, 65530), (2, 4)], [None, 30, 10]),  # over 2^16
        ([(0, 2**32 - 40), (1, 2**32 - 10), (2, 10)], [None, 30, 20]),
        ([(0, 2.0**64 - 2**19), (1, 2.0**64 - 2**17), (2, 2.0**16)], [None, 3 * 2**17, 3 * 2**16]),
        ([(0, 40000), (1, 65530), (2, 10000), (3, 12000)], [None, 25530, None, 2000]),  # too far for a wrap
        ([(0, 65530), (1, 65531), (2, 1)], [None, 1, None]),  # 6 over the wrap, but no rate ever was above 1
        ([(0, 65540), (1, 65550), (2, 6)], [None, 10, None]),  # beyond 2^16 it does not wrap there
        ([(0, 5), (1, 15), (2, -3), (3, -1)], [None, 10, None, 2]),
        ([(0, 1e20), (1, 2e20), (2, 0)], [None, 1e20, None]),  # beyond every range
    ],
)
def test_readings_become_increases_for_each_step(readings, expected):
    assert rates(readings) == expected


def test_by_arrival_time_counts_and_an_early_reading_is_a_whole_step():
    readings = [(0, 0), (25, 50), (30, 60), (30, 61), (1030, 1061)]
    assert rates(readings, even=False, most_steps=np.inf, period=10.0) == [None, 20, 10, None, 10]


def test_other_channels_are_left_alone_and_a_counter_that_does_not_come_waits():
    counters = Counters(("n",))
    found = [
        counters.rates(float(i), values, 1.0, even=True, most_steps=6.0)
        for i, values in enumerate([{"n": 1.0, "t": 5.0}, {"t": 6.0}, {"n": 5.0}])
    ]
    assert found == [{"t": 5.0}, {"t": 6.0}, {"n": 2.0}]


@given(
    increases=st.lists(st.integers(0, 50), min_size=3, max_size=60),
    start=st.integers(0, 2**16 - 1),
    resets=st.sets(st.integers(0, 59)),
)
def test_no_reset_and_no_wrap_makes_a_rate_that_never_was(increases, start, resets):
    value, readings = start, []
    for place, increase in enumerate([50, *increases]):
        readings.append((float(place), float(value)))
        value = increase if place in resets and place else (value + increase) % 2**16
    readings.append((float(len(readings)), float(value)))
    found = [rate for rate in rates(readings) if rate is not None]
    assert all(0 <= rate <= 50 for rate in found)


def counted(samples, name, wrap=1e9):
    total, made = 0.0, []
    for sample in samples:
        total = (total + round(100 + 10 * sample.values[name])) % wrap
        made.append(Sample(sample.at, {**sample.values, name: total}))
    return made


def test_a_grid_holds_rates_and_its_first_row_none():
    grid = Grid(GridSettings(counters=("n",)), ("n",))
    for i in range(200):
        grid.push(Sample(float(i), {"n": 3.0 * i}), learning=True)
    assert grid.total_rows == 200
    assert grid.run == [199]
    assert (grid.rows(199) + grid.base == 3.0).all()
    assert grid.newest == {"n": 3.0}


def test_a_grid_by_arrival_divides_by_time():
    grid = Grid(GridSettings(counters=("n",)), ("n",))
    at = np.cumsum(np.random.default_rng(0).choice([1.0, 1.0, 1.0, 7.0, 40.0], size=300))
    for one in at:
        grid.push(Sample(float(one), {"n": 4.0 * one}), learning=True)
    assert grid.spacing is Spacing.ARRIVAL
    assert np.allclose(grid.rows(299) + grid.base, 4.0)


def test_a_wrap_is_no_news_and_another_rate_is():
    wrap = 2.0**16
    stream = make(("a", "b"), grid=GridSettings(counters=("a",)))
    samples = counted(normal(1500), "a", wrap)
    assert max(one.score for one in feed(stream, samples[:-1])) < 4.0
    value, _, _ = stream.expected(stream.push(samples[-1]))
    assert 70 < value[0] < 130  # a rate, and not 0 or 65,000
    busy = [Sample(1501.0 + i, {"a": 200.0 * i, "b": 10.0}) for i in range(40)]
    assert max(one.score for one in feed(stream, busy)) > 4.0


@pytest.mark.parametrize("cut", [10, 100, 400])
def test_resuming_goes_on_counting(cut):
    samples = counted(normal(500), "a", 2.0**16)
    grids = [GridSettings(counters=("a",), spacing=spacing) for spacing in (Spacing.AUTO, Spacing.ARRIVAL)]
    for grid in grids:
        whole, first, second = (make((), grid=grid) for _ in range(3))
        expected = [one.score for one in feed(whole, samples)]
        found = [one.score for one in feed(first, samples[:cut])]
        second.restore(first.snapshot())
        assert found + [one.score for one in feed(second, samples[cut:])] == expected
