"""Frozen values: run lengths against a naive oracle, and the laws of their p-value."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.frozen import MIN_RUN, MIN_RUNS, FrozenValues, _bin

SPAN = 24
ONE = np.array([0])


def frozen(lanes=1):
    made = FrozenValues()
    made.make_room(0, lanes)
    return made


def fed(values, stride=1, lanes=1):
    """Feed a series as the bank does: tails that end with the newest point, NaN before the first."""
    made = frozen(lanes)
    padded = np.concatenate([np.full(SPAN, np.nan), values]).astype(np.float32)
    for end in range(SPAN + stride, len(padded) + 1, stride):
        made.follow(ONE, padded[None, end - SPAN : end], np.array([stride]))
    return made


def oracle(values):
    """Return the run that lasts and the runs that ended, each between two known changes."""
    runs = [(value, len(list(group))) for value, group in itertools.groupby(values, key=str)]
    ended = [length for (value, length), (after, _) in itertools.pairwise(runs) if "nan" not in (value, after)]
    return (0 if runs[-1][0] == "nan" else runs[-1][1]), ended


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, float("nan")]), min_size=24, max_size=72).map(
        lambda v: v[: len(v) // 12 * 12]
    ),
    st.sampled_from([1, 2, 3, 12]),
)
def test_runs_are_those_that_groupby_finds(values, stride):
    made = fed(values, stride)
    run, ended = oracle(values)
    assert made.run[0] == run
    wanted = np.bincount(_bin(np.array(ended, np.int64)), minlength=made.ended.shape[1]) if ended else 0
    assert (made.ended[0] == wanted).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([1, 2, 3, 12]), st.integers(0, 1 << 16)), min_size=2, max_size=4))
def test_lanes_of_any_strides_are_followed_together_as_each_is_alone(kinds):
    """At the end of each 12 rows all are followed with rows of their own."""
    series = [np.random.default_rng(seed).integers(0, 3, 72).astype(np.float32) for _, seed in kinds]
    strides = np.array([stride for stride, _ in kinds])
    together, alone = frozen(len(kinds)), [frozen() for _ in kinds]
    for end in range(SPAN, 73, 12):
        tails = np.stack([one[end - SPAN : end] for one in series])
        together.follow(np.arange(len(kinds)), tails, strides)
        for lane, one in enumerate(alone):
            one.follow(ONE, tails[lane : lane + 1], strides[lane : lane + 1])
    assert together.run.tolist() == [one.run[0] for one in alone]
    assert (together.ended == np.concatenate([one.ended for one in alone])).all()


def test_a_value_that_always_changes_and_then_stops_becomes_ever_rarer():
    rng = np.random.default_rng(1)
    made = fed(rng.normal(size=300))
    tail = np.full((1, SPAN), 7.0, np.float32)
    seen = []
    for _ in range(200):
        made.follow(ONE, tail, np.array([1]))
        seen.append(float(made.p_values(ONE)[0]))
    assert seen[: MIN_RUN - 2] == [1.0] * (MIN_RUN - 2)
    assert all(later <= earlier for earlier, later in itertools.pairwise(seen))
    assert seen[-1] < 1e-6


def test_a_run_as_long_as_one_in_ten_has_about_that_p():
    lengths = [2] * 90 + [40] * 10
    values = np.repeat(np.arange(100), np.random.default_rng(0).permutation(lengths))
    made = fed(values)
    made.run[0] = 30
    assert made.p_values(ONE)[0] == pytest.approx(0.1, abs=0.02)


def test_a_channel_that_hardly_ever_changed_is_never_frozen():
    made = fed(np.repeat(np.arange(MIN_RUNS), 3))  # as many values: one change fewer
    made.run[0] = 100_000
    assert made.p_values(ONE)[0] == 1.0


def test_old_runs_count_less_in_the_end():
    made = frozen()
    made.ended[0, 0] = 8192
    made.follow(ONE, np.array([[1.0, 2.0, 3.0]], np.float32), np.array([2]))
    assert made.ended[0].sum() < 4200


def test_it_goes_on_from_a_snapshot():
    made = fed(np.repeat(np.arange(40), 2))
    other = frozen(3)
    other.restore(2, made.snapshot(0, 1))
    assert other.run[2] == made.run[0]
    assert (other.ended[2] == made.ended[0]).all()
