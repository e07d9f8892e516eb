from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.reference import AdmissionPolicy, ReferenceWindow, Workspace
from agent.core.scoring import SCORERS, ScoreMethod, nearest_distance
from agent.core.types import Mode
from tests import oracles


def filled(rng, parts=2, size=20, dim=8, entries=30, guard=0):
    window = ReferenceWindow(parts, size, dim, step=0.1, offset=3, guard=guard)
    kept = []
    for i in range(entries):
        entry = rng.integers(-100, 100, (parts, dim)).astype(np.int8)
        admitted = rng.random(parts) < 0.8
        window.admit(entry, admitted, float(i))
        kept.append((entry, admitted))
    return window, kept


@given(st.integers(0, 10_000), st.integers(1, 7))
def test_distances_agree_with_the_slow_oracle(seed, k):
    rng = np.random.default_rng(seed)
    window, kept = filled(rng)
    query = rng.integers(-100, 100, (2, 8)).astype(np.int8)
    found = nearest_distance(window.squared_distances(query, Workspace()), k)
    for part in range(2):
        held = np.array([entry[part] for entry, admitted in kept if admitted[part]])[-20:]
        expected = oracles.mean_nearest(oracles.squared_distances(held, query[part], 0.1), k)
        assert found[part] == pytest.approx(expected, rel=1e-4)


def test_the_guard_keeps_the_newest_out():
    window = ReferenceWindow(1, 10, 2, step=1.0, offset=0, guard=3)
    for i in range(5):
        window.admit(np.full((1, 2), i, np.int8), np.ones(1, np.bool_), float(i))
    assert window.count.tolist() == [2]


def test_quantizing_is_exact_for_the_networks_own_output():
    window = ReferenceWindow(1, 10, 4, step=0.013, offset=-5, guard=0)
    levels = np.array([[-128, -5, 0, 127]])
    assert window.quantize(((levels + 5) * 0.013).astype(np.float32)).tolist() == levels.tolist()


def test_the_nearest_come_with_their_times():
    window = ReferenceWindow(1, 10, 1, step=1.0, offset=0, guard=0)
    for i in (10, 20, 30):
        window.admit(np.full((1, 1), i, np.int8), np.ones(1, np.bool_), 1000.0 + i)
    assert window.nearest(np.full((1, 1), 21, np.int8), 0, 5, Workspace()) == [
        (1020.0, 1.0),
        (1030.0, 9.0),
        (1010.0, 11.0),
    ]


def test_a_snapshot_resumes_and_other_parts_can_join():
    rng = np.random.default_rng(1)
    window, _ = filled(rng, guard=2)
    again = ReferenceWindow(2, 20, 8, step=0.1, offset=3, guard=2)
    again.restore(window.snapshot())
    query = rng.integers(-100, 100, (2, 8)).astype(np.int8)
    assert np.array_equal(window.squared_distances(query, Workspace()), again.squared_distances(query, Workspace()))
    again.grow(3)
    assert again.count.tolist()[2] == 0


def primed(mode):
    policy = AdmissionPolicy(mode, 1)
    policy.prime(0, np.random.default_rng(0).normal(0, 1, 500).astype(np.float32))
    return policy


@pytest.mark.parametrize(
    ("mode", "low", "high"), [(Mode.ADAPT, True, False), (Mode.HOLD, True, False), (Mode.FROZEN, False, False)]
)
def test_each_mode_admits_what_it_promises(mode, low, high):
    policy = primed(mode)
    assert policy.admit(np.zeros(1, np.float32)).tolist() == [low]
    assert policy.admit(np.full(1, 50.0, np.float32)).tolist() == [high]


@pytest.mark.parametrize(("mode", "opens"), [(Mode.ADAPT, True), (Mode.HOLD, False)])
def test_only_adapt_opens_again_when_refusals_become_the_rule(mode, opens):
    policy = primed(mode)
    found = [bool(policy.admit(np.full(1, 60.0, np.float32))[0]) for _ in range(150)]
    assert found[0] is False
    assert found[-1] is opens


def test_a_part_not_scored_yet_is_admitted():
    assert primed(Mode.ADAPT).admit(np.full(1, np.nan, np.float32)).tolist() == [True]


@pytest.mark.parametrize("method", list(ScoreMethod))
def test_scores_rise_with_distance(method):
    near = np.full((1, 30), 1.0, np.float32)
    scores = [float(SCORERS[method](near * factor, 5, np.ones(1, np.float32))[0]) for factor in (0.0, 1.0, 4.0, 100.0)]
    assert scores == sorted(scores)
    assert len(set(scores)) == 4
