from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.types import Sample
from agent.core.windowing import LATE_RUN, MAX_CHANNELS, MEASURED_SAMPLES, Arrival, Grid, GridSettings, Spacing
from tests.oracles import RowModel


def grid(period=1.0, carry=2, channels=("a",), rows=50):
    return Grid(GridSettings(period_s=period, carry_limit=carry), channels, rows)


def push(target, at, *, learning=True, **values):
    return target.push(Sample(at, values), learning=learning)


def absolute(target, count):
    return (target.rows(count) + target.base).tolist()


def test_values_land_on_the_grid_in_order():
    g = grid()
    assert [push(g, t, a=v) for t, v in ((0, 1.0), (1, 2.0), (2.1, 3.0))] == [Arrival.ACCEPTED] * 3
    assert absolute(g, 3) == [[1.0], [2.0], [3.0]]
    assert g.run == [3]


def test_a_missing_step_carries_the_last_value_forward():
    g = grid()
    push(g, 0, a=1.0)
    push(g, 3, a=4.0)
    assert absolute(g, 4) == [[1.0], [1.0], [1.0], [4.0]]
    assert g.run == [4]


def test_a_gap_beyond_the_limit_breaks_the_window():
    g = grid()
    push(g, 0, a=1.0)
    push(g, 4, a=4.0)
    assert g.total_rows == 3
    assert np.isnan(g.rows(2)[0, 0])  # no window may span it
    assert g.run == [1]
    assert not g.unbroken


def uneven(count, seed=0):
    """Return times of readings that come now and then."""
    return np.cumsum(np.random.default_rng(seed).choice([1.0, 1.0, 1.0, 7.0, 40.0], size=count)).tolist()


def test_readings_that_come_now_and_then_are_rows_by_arrival():
    g = Grid(GridSettings(), ("a",))
    times = uneven(300)
    for number, at in enumerate(times):
        assert g.push(Sample(at, {"a": float(number)}), learning=True) in {Arrival.ACCEPTED, Arrival.MEASURING}
    assert g.spacing is Spacing.ARRIVAL
    assert g.total_rows == 300
    assert g.run == [300]
    assert g.unbroken
    assert absolute(g, 300) == [[float(number)] for number in range(300)]
    push(g, times[-1] + 1e6, a=300.0)
    assert g.run == [301]


@pytest.mark.parametrize("lost", [0.0, 0.05])
def test_a_sender_that_loses_a_reading_now_and_then_is_even(lost):
    g = Grid(GridSettings(), ("a",))
    rng = np.random.default_rng(1)
    for at in range(400):
        if rng.random() >= lost:
            push(g, at, a=1.0)
    assert g.spacing is Spacing.EVEN
    assert g.total_rows == 400


def test_a_burst_before_even_readings_does_not_make_them_uneven():
    g = Grid(GridSettings(), ("a",))
    for number in range(70):
        push(g, number * 1e-3, a=1.0)
    for number in range(200):
        push(g, 10.0 + number, a=1.0)
    assert g.spacing is Spacing.EVEN
    assert g.period_s == 1.0


def test_a_stated_spacing_or_period_is_not_judged():
    for settings, spacing in (
        (GridSettings(spacing=Spacing.EVEN), Spacing.EVEN),
        (GridSettings(period_s=1.0), Spacing.EVEN),
        (GridSettings(period_s=1.0, spacing=Spacing.ARRIVAL), Spacing.ARRIVAL),
    ):
        g = Grid(settings, ("a",))
        for at in uneven(200):
            push(g, at, a=1.0)
        assert g.spacing is spacing
    assert g.total_rows == 200


def test_a_channel_that_vanishes_is_carried_then_missing():
    g = grid(channels=("a", "b"))
    push(g, 0, a=1.0, b=5.0)
    for t in range(1, 4):
        push(g, t, a=1.0)
    assert [row[1] for row in absolute(g, 4)][:3] == [5.0, 5.0, 5.0]
    assert np.isnan(g.rows(1)[0, 1])
    assert g.run == [4, 0]
    push(g, 4, a=1.0, b=6.0)
    assert g.run == [5, 1]


@pytest.mark.parametrize(
    ("at", "outcome"), [(5.0, Arrival.DUPLICATE), (4.0, Arrival.LATE), (5.3, Arrival.SURPLUS), (6.0, Arrival.ACCEPTED)]
)
def test_each_order_of_arrival_has_its_outcome(at, outcome):
    g = grid()
    push(g, 5.0, a=1.0)
    assert push(g, at, a=2.0) is outcome


def test_a_clock_that_is_set_back_is_followed_behind_a_gap():
    g = grid()
    for t in range(100, 105):
        push(g, t, a=1.0)
    outcomes = [push(g, t, a=1.0) for t in range(LATE_RUN + 3)]
    assert outcomes[: LATE_RUN - 1] == [Arrival.LATE] * (LATE_RUN - 1)
    assert outcomes[LATE_RUN - 1 :] == [Arrival.ACCEPTED] * 4
    assert g.run == [4]
    assert g.turns == 1


def test_readings_that_a_broker_sends_again_are_no_new_clock():
    g = grid()
    for t in range(100, 130):
        push(g, t, a=1.0)
    outcomes = [g.push(Sample(float(t), {"a": 1.0}), learning=True, again=True) for t in range(105, 130)]
    assert outcomes == [Arrival.LATE] * 24 + [Arrival.DUPLICATE]
    assert push(g, 130, a=1.0) is Arrival.ACCEPTED
    assert (g.turns, g.run) == (0, [31])


def test_late_readings_that_do_not_rise_are_no_new_clock():
    g = grid()
    push(g, 1000, a=1.0)
    assert {push(g, t, a=1.0) for t in range(100, 50, -1)} == {Arrival.LATE}


def test_a_period_measured_from_a_burst_is_measured_again():
    g = grid(period=None)
    for i in range(MEASURED_SAMPLES):
        push(g, i * 1e-5, a=1.0)
    assert g.period_s == pytest.approx(1e-5)
    outcomes = [push(g, 100.0 + i, a=1.0) for i in range(2 * MEASURED_SAMPLES + 5)]
    assert g.period_s == 1.0
    assert outcomes.count(Arrival.MEASURING) == MEASURED_SAMPLES - 1
    assert g.run == [MEASURED_SAMPLES + 6]


def test_a_glitch_at_the_start_does_not_spoil_the_digits_of_what_follows():
    g = grid()
    push(g, 0, a=1e12)
    for t in range(1, 200):
        push(g, t, a=20 + t / 1000)
    assert np.diff(g.rows(3)[:, 0]) == pytest.approx([0.001, 0.001], abs=1e-5)


def test_more_channels_than_a_stream_may_have_are_ignored_and_counted():
    g = grid(channels=())
    for t in range(5):
        push(g, t, **{f"c{t}-{i}": 1.0 for i in range(100)})
    assert len(g.channels) == MAX_CHANNELS
    assert g.ignored_channels == 100


def test_the_period_is_measured_from_the_first_readings():
    g = grid(period=None)
    outcomes = [push(g, i * 0.5, a=float(i)) for i in range(MEASURED_SAMPLES)]
    assert outcomes[-2:] == [Arrival.MEASURING, Arrival.ACCEPTED]
    assert g.period_s == 0.5
    assert g.total_rows == MEASURED_SAMPLES


def test_new_channels_are_met_while_learning_and_ignored_later():
    g = grid(channels=())
    push(g, 0, a=1.0)
    push(g, 1, a=1.0, b=2.0)
    push(g, 2, learning=False, a=1.0, b=2.0, c=3.0)
    assert g.channels == ["a", "b"]
    assert g.ignored_channels == 1
    assert g.run == [3, 2]


def test_a_sample_without_any_known_channel_is_said_so():
    assert push(grid(), 0, z=1.0) is Arrival.NO_CHANNEL


def test_large_counters_keep_their_last_digits():
    g = grid()
    for i in range(3):
        push(g, i, a=1e10 + i)
    assert np.diff(g.rows(3)[:, 0]).tolist() == [1.0, 1.0]


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=1300))
def test_the_ring_agrees_with_a_deque(values):
    g, model = grid(rows=20), RowModel(20)
    for i, value in enumerate(values):
        push(g, i, a=value)
        model.append([value])
    assert np.allclose(absolute(g, 20), list(model.rows), atol=1e-3)


def test_the_ring_moves_to_the_front_when_its_room_is_used_up():
    g = grid(rows=20)
    for i in range(3000):
        push(g, i, a=float(i))
    assert absolute(g, 20) == [[float(i)] for i in range(2980, 3000)]
    assert g.stored_rows == 20


def test_two_channels_missing_at_once_share_one_row():
    g = grid(channels=("a", "b", "c"))
    push(g, 0, a=1.0, b=2.0, c=3.0)
    push(g, 1, a=4.0)
    assert absolute(g, 1) == [[4.0, 2.0, 3.0]]


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(-5, 5)), min_size=2, max_size=80), st.integers(0, 79))
def test_resuming_after_any_prefix_equals_never_having_stopped(steps, cut):
    at, samples = 0.0, []
    for step, value in steps:
        at += step - 1
        samples.append(Sample(at, {"a": value} if value > -4 else {"b": value}))
    whole, first = grid(period=None, channels=()), grid(period=None, channels=())
    second = grid(period=None, channels=())
    for sample in samples:
        whole.push(sample, learning=True)
    for sample in samples[:cut]:
        first.push(sample, learning=True)
    second.restore(first.snapshot())
    for sample in samples[cut:]:
        second.push(sample, learning=True)
    assert np.array_equal(whole.rows(50), second.rows(50), equal_nan=True)
    assert whole.run == second.run
