"""What is known of normal pictures: fits in steps, and what is taken out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from agent.core.bank import TooFewLeftError
from agent.core.picture_memory import LEAST_REFIT, RARE_REFIT, log_scores
from agent.core.picture_pool import MIN_PICTURES, GaussianBuild
from tests.core.pictures import feed, frame, learnt, make, outputs


def settled(detector, rng, first=200):
    """Push until no fit is in the making."""
    for i in range(60):
        detector.push(frame(first + i), outputs(rng))
        if detector.memory._build is None and i:
            return detector
    raise AssertionError


def test_the_first_fit_is_there_when_learning_ends():
    detector, _ = learnt()
    assert detector.memory.fit.count == 120 - GaussianBuild.steps_for(120)
    assert np.isfinite(detector.memory.ring.pool_scores[:120]).all()
    assert np.isfinite(detector.memory.ring.patch_scores[:120]).all()


def test_what_is_let_in_while_a_fit_is_made_waits_for_it():
    detector, rng = learnt(size=121)
    memory = detector.memory
    count = memory.count
    feed(detector, rng, 60, 120)
    while memory._build is None:
        feed(detector, rng, 1, 200)
    rows, before = memory._build.rows.copy(), len(memory._waiting)
    feed(detector, rng, 2, 300)
    assert len(memory._waiting) == before + 2
    assert np.array_equal(rows, memory._build.rows)
    feed(detector, rng, 20, 302)
    assert memory._build is None
    assert memory._waiting == []
    assert memory.count >= count
    assert memory.bytes > 0


def test_a_fit_made_in_steps_is_that_of_the_rows_it_began_with():
    detector, rng = learnt()
    memory = detector.memory
    feed(detector, rng, 200, 120)
    while memory._build is None:
        feed(detector, rng, 1, 400)
    expected, left_out = GaussianBuild(memory._build.rows.copy()).finish()
    held = {int(number): score for number, score in zip(memory.ring.numbers, log_scores(left_out), strict=True)}
    while memory._build is not None:
        feed(detector, rng, 1, 500)
    assert np.array_equal(memory.fit.precision, expected.precision)
    still = [place for place, number in enumerate(memory.ring.numbers) if int(number) in held]
    assert len(still) > 130
    assert [memory.ring.pool_scores[place] for place in still] == [
        held[int(memory.ring.numbers[place])] for place in still
    ]


def test_few_pictures_are_scored_by_their_patches_alone():
    detector, rng = learnt(size=150, warm_up=40)
    assert detector.memory.fit is None
    found = feed(detector, rng, 20, 40)
    assert all(np.isnan(one.pool_score) for one in found)
    assert all(0 < one.p_value <= 1 for one in found)
    feed(detector, rng, MIN_PICTURES, 60)
    assert detector.memory.fit is not None


def test_a_new_scene_is_fitted_soon():
    detector, rng = learnt()
    settled(detector, rng)
    before = detector.memory.fit
    feed(detector, rng, 9 + RARE_REFIT + GaussianBuild.steps_for(150) + 3, 300, shift=6.0)
    assert detector.memory.fit is not before


def test_odd_pictures_among_the_first_are_taken_out_and_a_fit_without_them_is_made():
    detector, rng = make(), np.random.default_rng(0)
    for i in range(120):
        detector.push(frame(i), outputs(rng, defect=40.0 * (i in {30, 77})))
    memory = detector.memory
    numbers = set(memory.ring.numbers[: memory.ring.count])
    assert not {30, 77} & numbers
    assert len(numbers) > 110
    assert not np.isin([30, 77], memory.bank.born).any()
    first = memory.fit
    feed(detector, rng, 2 + GaussianBuild.steps_for(120), 120)
    assert memory.fit is not first


def test_too_many_odd_pictures_are_another_kind_and_stay():
    detector, rng = make(), np.random.default_rng(0)
    for i in range(120):
        detector.push(frame(i), outputs(rng, defect=40.0 * (i % 4 == 0)))
    assert detector.memory.ring.count == 120


def test_a_time_span_is_taken_out_also_of_what_waits():
    detector, rng = learnt()
    memory = detector.memory
    feed(detector, rng, 200, 1000)
    while memory._build is None:
        feed(detector, rng, 1, 2000)
    feed(detector, rng, 3, 3000)
    assert len(memory._waiting) == 3
    count = memory.count
    assert detector.forget_span(3000.0, 3001.0) == 2
    assert memory.count == count - 3  # one of those that waited entered, and the oldest left
    assert memory._waiting == []
    assert 3002.0 in memory.ring.times
    assert detector.forget_span(9000.0, 9001.0) == 0
    with pytest.raises(TooFewLeftError):
        detector.forget_span(0.0, 9000.0)
    assert memory.count == count - 3
    begin = sorted(memory.ring.times[: memory.ring.count])[MIN_PICTURES - 60]
    detector.forget_span(begin, 9000.0)
    assert memory.count == MIN_PICTURES - 60
    assert memory.fit is None
    assert all(np.isnan(one.pool_score) for one in feed(detector, rng, LEAST_REFIT, 9100))


def test_nearest_are_the_pictures_most_alike():
    detector, rng = learnt()
    one = outputs(rng)
    detector.push(frame(777), one)
    found = detector.nearest(778.0, one)
    assert found[0][0] == 777.0
    assert found[0][1] == pytest.approx(0.0, abs=1e-3)
    assert detector.nearest(777.0, one, 2) == found[1:]  # a picture is not its own neighbour
    assert [away for _, away in found] == sorted(away for _, away in found)
    assert len(found) == 3
