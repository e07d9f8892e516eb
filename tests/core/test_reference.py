from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.lanes import Lanes, grown
from agent.core.reference import RENEWAL, RENEWAL_BURST, AdmissionPolicy, ReferenceWindow
from agent.core.scoring import SCORERS, ScoreMethod, nearest_distance, smallest
from agent.core.types import Mode
from agent.core.workspace import Workspace
from tests import oracles


def window_of(lanes, size, dim, *, step=1.0, offset=0):
    made = ReferenceWindow(size, dim, step=step, offset=offset)
    made.make_room(0, lanes)
    return made


def filled(rng, lanes=2, size=20, dim=8, entries=30):
    window = window_of(lanes, size, dim, step=0.1, offset=3)
    kept = []
    for i in range(entries):
        entry = rng.integers(-100, 100, (lanes, dim)).astype(np.int8)
        admitted = rng.random(lanes) < 0.8
        index = np.flatnonzero(admitted)
        window.insert(entry[index], index, np.full(len(index), float(i)))
        kept.append((entry, admitted))
    return window, kept


@given(st.integers(0, 10_000), st.integers(1, 7), st.sampled_from([20, 400]))
@settings(deadline=None)
def test_distances_agree_with_the_slow_oracle(seed, k, size):
    rng = np.random.default_rng(seed)
    window, kept = filled(rng, size=size, entries=size + 10)
    query = rng.integers(-100, 100, (2, 8)).astype(np.int8)
    lanes = Lanes.of((0, 1), (1, 2))
    found = nearest_distance(window.squared_distances(query, lanes, Workspace()), k)
    for lane in range(2):
        held = np.array([entry[lane] for entry, admitted in kept if admitted[lane]])[-size:]
        expected = oracles.mean_nearest(oracles.squared_distances(held, query[lane], 0.1), k)
        assert found[lane] == pytest.approx(expected, rel=1e-4)


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 1100))
def test_the_smallest_are_those_of_a_sort(seed, count, columns):
    values = np.random.default_rng(seed).integers(0, 50, (3, columns)).astype(np.float32)
    count = min(count, columns)
    assert np.array_equal(np.sort(smallest(values, count)), np.sort(values)[:, :count])


def test_lanes_are_walked_in_blocks_that_lie_side_by_side():
    lanes = Lanes.of((4, 9), (0, 1))
    assert lanes.index.tolist() == [4, 5, 6, 7, 8, 0]
    assert [(row, part.start, part.stop) for row, part in lanes.blocks(3)] == [(0, 4, 7), (3, 7, 9), (5, 0, 1)]
    assert lanes.times(2).spans == [(8, 18), (0, 2)]
    assert lanes.times(2).index.tolist()[:4] == [8, 9, 10, 11]
    assert len(lanes) == 6


def test_room_is_doubled_only_when_it_is_needed():
    first = np.arange(4)
    assert grown(first, 3) is first
    assert len(grown(first, 5)) == 8
    assert len(grown(first, 20)) == 20
    assert grown(first, 5)[:4].tolist() == [0, 1, 2, 3]


def test_a_large_array_grows_where_it_lies_and_by_little():
    array = grown(np.empty((0, 1000), np.float32), 1000)
    array[:] = np.arange(1000)[:, None]
    tracemalloc.start()
    wider = grown(array, 1001)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert wider.shape == (1125, 1000)
    assert peak < 1.2 * 4_000_000  # a copy beside it would be 8 MB and more
    assert wider[:1000, 7].tolist() == list(range(1000))
    counts = grown(np.zeros(1 << 17), (1 << 17) + 1)  # one number for each lane: others may be reading it
    assert counts.shape == (1 << 18,)


def test_quantizing_is_exact_for_the_networks_own_output():
    window = window_of(1, 10, 4, step=0.013, offset=-5)
    levels = np.array([[-128, -5, 0, 127]])
    assert window.quantize(((levels + 5) * 0.013).astype(np.float32)).tolist() == levels.tolist()


def test_the_nearest_come_with_their_times():
    window = window_of(2, 10, 1)
    for i in (10, 20, 30):
        window.insert(np.full((1, 1), i, np.int8), np.array([1]), np.array([1000.0 + i]))
    assert window.nearest(np.full(1, 21, np.int8), 1, 5, Workspace()) == [(1020.0, 1.0), (1030.0, 9.0), (1010.0, 11.0)]
    assert window.nearest(np.full(1, 21, np.int8), 0, 5, Workspace()) == []


def test_a_snapshot_resumes_in_other_lanes_and_further_lanes_are_empty():
    rng = np.random.default_rng(1)
    window, _ = filled(rng)
    again = window_of(3, 20, 8, step=0.1, offset=3)
    again.make_room(3, 6)
    again.restore(3, window.snapshot(0, 2))
    query = rng.integers(-100, 100, (2, 8)).astype(np.int8)
    expected = window.squared_distances(query, Lanes.of((0, 2)), Workspace())
    assert np.array_equal(expected, again.squared_distances(query, Lanes.of((3, 5)), Workspace()))
    assert again.count.tolist()[2] == 0
    assert again.count.tolist()[5] == 0


@given(
    st.lists(
        st.one_of(
            st.integers(1, 30),  # insert so many
            st.tuples(st.just("mark"), st.integers(1, 3)),
            st.tuples(st.just("span"), st.integers(0, 60), st.integers(0, 30)),
            st.tuples(st.just("unmark"), st.integers(1, 3)),
        ),
        max_size=30,
    ),
    st.integers(0, 1000),
)
@settings(deadline=None)
def test_inserting_and_taking_out_agree_with_a_plain_list(steps, seed):
    """`oracle` keeps (entry, time, mark) of each of two lanes, oldest first."""
    rng = np.random.default_rng(seed)
    window, oracle, now = window_of(3, 20, 4), [[], [], []], 0
    for step in steps:
        if isinstance(step, int):
            for _ in range(step):
                index = np.flatnonzero(rng.random(3) < 0.7)
                entries = rng.integers(-128, 128, (len(index), 4)).astype(np.int8)
                mark = int(rng.integers(0, 4))
                window.insert(entries, index, np.full(len(index), now + 0.7), mark)
                for lane, entry in zip(index, entries, strict=True):
                    oracle[lane] = [*oracle[lane], (entry.tolist(), now, mark)][-20:]
                now += 1
            continue
        if step[0] == "unmark":
            window.unmark(1, 3, step[1])
            oracle[1:] = [[(e, at, 0 if m == step[1] else m) for e, at, m in lane] for lane in oracle[1:]]
            continue
        if step[0] == "mark":
            leaving = window.marked(1, 3, step[1])
            oracle[1:] = [[one for one in lane if one[2] != step[1]] for lane in oracle[1:]]
        else:
            begin, end = step[1], step[1] + step[2] + 0.9
            leaving = window.within(1, 3, begin, end)
            oracle[1:] = [[one for one in lane if not begin <= one[1] <= end] for lane in oracle[1:]]
        window.remove(1, leaving)
        assert window.count.tolist()[:3] == [len(lane) for lane in oracle]
    for lane, expected in enumerate(oracle):
        places = window.newest(lane, len(expected))
        assert [window.entry(lane, place).tolist() for place in places] == [entry for entry, _, _ in expected]
        assert window._times[lane, places].tolist() == [at for _, at, _ in expected]
        assert window._marks[lane, places].tolist() == [mark for _, _, mark in expected]


def primed(mode):
    policy = AdmissionPolicy(mode)
    policy.make_room(0, 1)
    policy.prime(0, np.random.default_rng(0).normal(0, 1, 500).astype(np.float32))
    return policy


def enters(policy, raw_score):
    return bool(policy.admit(np.array([0]), np.array([raw_score], np.float32))[0][0])


def test_of_a_run_of_refused_scores_one_in_32_is_counted():
    policy = primed(Mode.HOLD)
    counted = [bool(policy.admit(np.array([0]), np.full(1, 60.0, np.float32))[1][0]) for _ in range(66)]
    assert [i for i, one in enumerate(counted) if one] == [0, 31, 32, 63, 64]


@pytest.mark.parametrize(
    ("mode", "low", "high"), [(Mode.ADAPT, True, False), (Mode.HOLD, True, False), (Mode.FROZEN, False, False)]
)
def test_each_mode_admits_what_it_promises(mode, low, high):
    policy = primed(mode)
    assert enters(policy, 0.0) is low
    assert enters(policy, 50.0) is high


@pytest.mark.parametrize(("mode", "opens"), [(Mode.ADAPT, True), (Mode.HOLD, False)])
def test_only_adapt_opens_again_when_refusals_become_the_rule(mode, opens):
    policy = primed(mode)
    found = [enters(policy, 60.0) for _ in range(150)]
    assert found[0] is False
    assert any(found[-5:]) is opens  # after a burst at a capped rate


def test_a_part_not_scored_yet_is_admitted():
    assert enters(primed(Mode.ADAPT), np.nan)


def test_what_looks_somewhat_odd_enters_by_a_share_and_a_burst_and_the_rest_freely():
    policy = primed(Mode.ADAPT)
    assert all(enters(policy, 0.5) for _ in range(200))
    entered = []
    for _ in range(400):
        policy.prime(0, np.random.default_rng(0).normal(0, 1, 500).astype(np.float32))  # else it became the rule
        entered.append(enters(policy, 2.0))
    assert all(entered[: int(RENEWAL_BURST)])
    assert sum(entered) == pytest.approx(RENEWAL_BURST + RENEWAL * 400, abs=2)
    assert enters(policy, 0.5)
    assert not any(enters(policy, 50.0) for _ in range(50))  # refused: nothing is spent
    assert sum(enters(policy, 2.0) for _ in range(30)) >= 15


@pytest.mark.parametrize("method", list(ScoreMethod))
def test_scores_rise_with_distance(method):
    near = np.full((1, 30), 1.0, np.float32)
    scores = [float(SCORERS[method](near * factor, 5, np.ones(1, np.float32))[0]) for factor in (0.0, 1.0, 4.0, 100.0)]
    assert scores == sorted(scores)
    assert len(set(scores)) == 4
