"""The pictures held, what their scores are worth, and who may enter."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.picture_reference import (
    ESCAPE_FRAMES,
    MOST_ODD,
    REFUSE_P,
    Picture,
    PictureGate,
    PictureRing,
    ScoreScale,
    exponential_tail,
)
from agent.core.types import Mode


def picture(number, mark=0):
    return Picture(float(number), number, np.full(2, number, np.float32), np.ones((3, 2), np.float32), 0.5, 1.5, mark)


def test_first_in_first_out_and_what_leaves_keeps_the_order():
    ring = PictureRing(4, 2)
    for number in range(6):
        ring.add(picture(number, mark=number % 2))
    assert sorted(ring.numbers) == [2, 3, 4, 5]
    assert ring.remove(ring.marks[: ring.count] == 1) == 2
    assert list(ring.numbers[: ring.count]) == [2, 4]
    for number in (6, 7, 8):
        ring.add(picture(number))
    assert sorted(ring.numbers) == [4, 6, 7, 8]
    other = PictureRing(4, 2)
    other.restore(ring.snapshot())
    for one in (ring, other):
        one.add(picture(9))
    assert np.array_equal(ring.rows, other.rows)
    assert ring.bytes == other.bytes > 0


def test_a_picture_is_packed_without_loss():
    again = Picture.unpacked(picture(3, mark=2).packed())
    assert (again.at, again.number, again.mark, again.patch_score) == (3.0, 3, 2, 0.5)
    assert np.array_equal(again.patches, picture(3).patches)
    assert again.bytes == picture(3).bytes


@given(st.integers(0, 200), st.booleans())
def test_p_values_fall_as_scores_rise_and_are_never_zero(seed, both):
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 1, 200).astype(np.float32)
    scale = ScoreScale.of(scores, rng.normal(0, 1, 200).astype(np.float32) if both else None)
    found = [scale.p_value(score, 0.0 if both else np.nan) for score in np.linspace(-5, 1000, 300)]
    assert all(later <= earlier for earlier, later in pairwise(found))
    assert 0 < found[-1] < REFUSE_P
    assert found[0] <= 1.0


@pytest.mark.parametrize("seed", range(3))
def test_scores_that_were_not_seen_get_the_p_values_they_deserve(seed):
    rng = np.random.default_rng(seed)
    scale = ScoreScale.of(rng.gumbel(0, 1, 2000).astype(np.float32), rng.normal(0, 1, 2000).astype(np.float32))
    new = np.array([scale.p_value(rng.gumbel(0, 1), rng.normal(0, 1)) for _ in range(4000)])
    for level in (0.3, 0.1, 0.01):
        assert 0.5 < (new <= level).mean() / level < 1.6


def test_missing_scores_do_not_count():
    scores = np.random.default_rng(0).normal(0, 1, 100).astype(np.float32)
    pool = scores[::-1].copy()
    holed, pool_holed = np.append(scores, [np.nan, 1.0]).astype(np.float32), np.append(pool, [1.0, np.nan])
    one, other = ScoreScale.of(scores, pool), ScoreScale.of(holed, pool_holed.astype(np.float32))
    assert one.p_value(2.0, 1.0) == other.p_value(2.0, 1.0)


@given(st.integers(0, 100))
def test_odd_pictures_among_the_reference_do_not_lengthen_the_tail(seed):
    rng = np.random.default_rng(seed)
    clean = rng.exponential(1.0, 970)
    dirty = np.concatenate([clean, rng.uniform(15.0, 60.0, 30)])
    (threshold, scale), (dirty_threshold, dirty_scale) = (exponential_tail(np.sort(one)) for one in (clean, dirty))
    assert dirty_threshold == pytest.approx(threshold, abs=0.2)
    assert max(scale, dirty_scale) < 1.5  # that of what is normal is 1


@pytest.mark.parametrize("seed", range(5))
def test_a_gate_does_not_shorten_the_tail_again_and_again(seed):
    rng = np.random.default_rng(seed)
    past = rng.exponential(1.0, 1000)
    for _ in range(20):  # the reference is renewed by what its own tail does not refuse
        threshold, scale = exponential_tail(np.sort(past))
        fresh = rng.exponential(1.0, 2000)
        past = fresh[fresh < threshold + scale * np.log(0.1 / REFUSE_P)][:1000]
    assert scale == pytest.approx(0.85, abs=0.3)


def test_no_more_is_left_out_than_may_be_odd():
    past = np.concatenate([np.linspace(0, 1, 700), np.full(300, 100.0)])  # two kinds of pictures
    threshold, scale = exponential_tail(past)
    assert threshold + scale * np.log(0.1 / REFUSE_P) > 50 or threshold == 100.0
    assert MOST_ODD < 0.3


def test_scores_that_are_all_the_same_have_a_tail():
    assert exponential_tail(np.zeros(100)) == (0.0, 0.02)


def test_what_is_rare_is_refused_until_it_is_the_rule():
    gate = PictureGate(Mode.ADAPT, 0.0)
    assert all(gate.admit(float(i), 0.5) for i in range(ESCAPE_FRAMES))
    assert [gate.admit(30.0 + i, 1e-6) for i in range(12)] == [False] * 9 + [True] * 3
    assert all(gate.admit(50.0 + i, 0.5) for i in range(ESCAPE_FRAMES))
    assert not gate.admit(90.0, 1e-6)


def test_a_change_must_last_before_it_is_learnt():
    gate = PictureGate(Mode.ADAPT, 60.0)
    admitted = [gate.admit(float(i), 1e-6) for i in range(100)]
    assert admitted.index(True) == 9 + 60
    assert all(admitted[69:])


@pytest.mark.parametrize(("mode", "usual"), [(Mode.HOLD, True), (Mode.FROZEN, False)])
def test_hold_learns_nothing_rare_and_frozen_nothing(mode, usual):
    gate = PictureGate(mode, 0.0)
    assert not any(gate.admit(float(i), 1e-6) for i in range(100))
    assert gate.admit(100.0, 0.5) is usual


def test_a_gate_goes_on_after_a_restart():
    one, other = PictureGate(Mode.ADAPT, 5.0), PictureGate(Mode.ADAPT, 5.0)
    for i in range(12):
        one.admit(float(i), 1e-6)
    other.restore(one.snapshot())
    assert [one.admit(12.0 + i, 1e-6) for i in range(9)] == [other.admit(12.0 + i, 1e-6) for i in range(9)]
