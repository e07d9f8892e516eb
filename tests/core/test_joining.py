"""Each case as a line of time: what comes, and the samples that it makes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.joining import ChannelJoin, StandingValues

MOST = 8  # channels


def joined(values, join=None, carry_limit=5):
    """Return the samples that (time, channel, value) make."""
    join = join or ChannelJoin(carry_limit, MOST)
    return [(row.at, row.values) for at, name, value in values for row in join.push(at, {name: value})]


def burst(at, value, names="abc", gap_s=0.01):
    return [(at + gap_s * index, name, value) for index, name in enumerate(names)]


def test_a_burst_of_all_channels_is_a_sample_once_its_last_value_has_come():
    # a b c          a b c          a b c
    #                ^ the first    ^ the second, at once
    values = burst(0.0, 1.0) + burst(10.0, 2.0) + burst(20.0, 3.0)
    join = ChannelJoin(5, MOST)
    made = [joined([one], join) for one in values]
    whole = [(10.0 * index + 0.02, dict.fromkeys("abc", index + 1.0)) for index in range(3)]
    assert made == [[], [], [], [whole[0]], [], [whole[1]], [], [], [whole[2]]]


def test_a_channel_that_stays_away_ends_the_round_late_and_keeps_its_value_within_limits():
    # abc abc abc ab  ab  ab  ab  ab
    values = [one for index in range(3) for one in burst(10.0 * index, float(index))]
    values += [one for index in range(3, 8) for one in burst(10.0 * index, float(index), "ab")]
    rows = joined(values, carry_limit=2)
    assert [row.get("c") for _, row in rows] == [0.0, 1.0, 2.0, 2.0, 2.0, None, None, None]
    assert [row["a"] for _, row in rows] == [float(index) for index in range(8)]


def test_a_slow_channel_is_not_missing_in_between_and_is_not_waited_for():
    # a a a a a b a a a a a b ...
    values = sorted(
        [(float(index), "a", index) for index in range(60)] + [(5.0 * index + 0.5, "b", index) for index in range(12)]
    )
    rows = joined(values)
    assert all("b" in row for _, row in rows[6:])
    times = [at for at, _ in rows]
    assert times == sorted(times)
    assert len(rows) > 55


def test_nothing_is_kept_where_nothing_may_be_carried():
    values = [one for index in range(3) for one in burst(10.0 * index, float(index), "ab")]
    rows = joined([*values, (30.0, "a", 3.0), (40.0, "a", 4.0)], carry_limit=0)
    assert rows[-2:] == [(30.0, {"a": 3.0}), (40.0, {"a": 4.0})]


def test_a_round_does_not_wait_longer_than_half_an_interval():
    # ab..........ab..........a...........b
    values = [one for index in range(4) for one in burst(20.0 * index, float(index), "ab")]
    rows = joined([*values, (80.0, "a", 4.0), (95.0, "b", 5.0)])
    assert rows[-1] == (80.0, {"a": 4.0, "b": 3.0})


def test_several_values_of_one_message_stay_together():
    join = ChannelJoin(5, MOST)
    assert join.push(1.0, {"a": 1.0, "b": 2.0}) == []
    (row,) = join.push(2.0, {"b": 3.0})
    assert (row.at, row.values) == (1.0, {"a": 1.0, "b": 2.0})


def test_a_clock_that_is_set_back_begins_a_round_of_its_own():
    values = [one for index in range(3) for one in burst(1000.0 + 10.0 * index, float(index))]
    rows = joined(values + burst(500.0, 7.0) + burst(510.0, 8.0))
    assert [at for at, _ in rows] == pytest.approx([1000.02, 1010.02, 1020.02, 500.02, 510.02])
    assert rows[-1][1] == dict.fromkeys("abc", 8.0)


def test_channels_are_bounded():
    join = ChannelJoin(5, MOST)
    for index in range(MOST + 10):
        join.push(float(index), {f"c{index}": 1.0})
    assert len(join.snapshot()["held"]) == MOST


EVENTS = st.lists(st.tuples(st.floats(0.01, 20.0), st.sampled_from("abc"), st.floats(-10, 10)), max_size=40)


@settings(max_examples=60)
@given(events=EVENTS, cut=st.integers(0, 40))
def test_it_goes_on_from_a_snapshot_as_if_never_stopped(events, cut):
    at, values = 0.0, []
    for passed, name, value in events:
        at += passed
        values.append((at, name, value))
    whole, first = ChannelJoin(3, MOST), ChannelJoin(3, MOST)
    expected = joined(values, whole)
    begun = joined(values[:cut], first)
    second = ChannelJoin(3, MOST)
    second.restore(first.snapshot())
    assert begun + joined(values[cut:], second) == expected
    assert second.snapshot() == whole.snapshot()
    times = [row_at for row_at, _ in expected]
    assert times == sorted(times)


def test_standing_values():
    standing = StandingValues(3)
    assert standing.push(1.0, {"a": 1.0, "b": 2.0}, (), anew=True).values == {"a": 1.0, "b": 2.0}
    assert standing.push(2.0, {"b": 3.0}, ("a", "x"), anew=False).values == {"b": 3.0}
    again = StandingValues(3)
    again.restore(standing.snapshot())
    assert again.push(3.0, {"c": 1.0, "d": 1.0, "e": 1.0}, (), anew=False).values == {"b": 3.0, "c": 1.0, "d": 1.0}
    assert again.push(4.0, {"e": 5.0}, (), anew=True).values == {"e": 5.0}
