"""The calendar view: what is known at another time of the week is not known now."""

from __future__ import annotations

import numpy as np
import pytest

from agent.core.reference import ReferenceSettings
from agent.core.season import LENGTH, MAX_SLOTS, SEASONS, Season
from agent.core.types import Sample
from tests.core.streams import feed, make

WEEK = 7 * 48  # steps of half an hour
ONE = np.array([0])
SCALE = np.array([[0.0, 1.0]], np.float32)


def week(rng):
    """Return a week of half hours: office hours on five days, quiet nights and weekends."""
    step = np.arange(WEEK)
    busy = (step // 48 < 5) & (step % 48 >= 16) & (step % 48 < 36)
    return 10.0 * busy + rng.normal(0, 0.3, WEEK)


def scores(values, season=None, first=0):
    made = season or Season(WEEK * 1800.0)
    if season is None:
        made.make_room(0, 1)
    return made, np.array(
        [
            made.follow(ONE, np.array([v], np.float32), np.array([(first + i) * 1800.0]), np.array([1800.0]), SCALE)[0]
            for i, v in enumerate(values)
        ]
    )


def test_it_speaks_after_three_seasons_and_is_calm_while_all_is_as_usual():
    rng = np.random.default_rng(0)
    _, found = scores(np.concatenate([week(rng) for _ in range(7)]))
    known = ~np.isnan(found)
    assert not known[: SEASONS * WEEK].any()
    assert known[(SEASONS + 1) * WEEK :].all()
    assert (found[known] > 3).mean() < 0.01


def test_a_weekends_pattern_on_a_weekday_is_odd_and_mondays_is_not():
    rng = np.random.default_rng(0)
    season, _ = scores(np.concatenate([week(rng) for _ in range(6)]))
    holiday = week(rng)
    holiday[48:96] = rng.normal(0, 0.3, 48)  # a Tuesday like a Sunday
    _, found = scores(holiday, season, 6 * WEEK)
    assert found[48 + 17 : 48 + 36].max() > 3
    assert np.nanmax(found[16:40]) < 2.5


@pytest.mark.parametrize("hours", [-1, 1])
def test_an_hour_of_daylight_saving_time_is_no_alarm(hours):
    rng = np.random.default_rng(0)
    season, _ = scores(np.concatenate([week(rng) for _ in range(6)]))
    moved = np.roll(week(rng), 2 * hours)
    _, found = scores(moved[:-4], season, 6 * WEEK)
    assert (found[4:] > 3).mean() < 0.02


def test_a_gap_leaves_what_was_missed_unknown_and_a_clock_set_back_forgets():
    rng = np.random.default_rng(0)
    season, _ = scores(np.concatenate([week(rng) for _ in range(5)]))
    _, found = scores(week(rng)[:40], season, 5 * WEEK + 100)
    assert np.isnan(found[1:LENGTH]).all()
    _, found = scores(week(rng)[:40], season, 10)
    assert np.isnan(found[1:]).all()


def test_many_steps_share_a_slot_and_the_score_is_that_of_the_last_whole_one():
    season = Season(86400.0)
    season.make_room(0, 2)
    assert season.slots(60.0) == MAX_SLOTS
    assert season.slots(3600.0) == 24
    for minute in range(10):
        season.follow(ONE, np.array([1.0], np.float32), np.array([minute * 60.0]), np.array([60.0]), SCALE)
    assert np.isfinite(season.ring[0]).sum() == 3


def test_it_goes_on_from_a_snapshot():
    rng = np.random.default_rng(0)
    season, _ = scores(np.concatenate([week(rng) for _ in range(5)]))
    other = Season(WEEK * 1800.0)
    other.make_room(0, 1)
    other.restore(0, season.snapshot(0, 1))
    more = week(rng)
    assert (scores(more, season, 5 * WEEK)[1] == scores(more, other, 5 * WEEK)[1]).all()
    assert season.lane_bytes > 8000


def test_a_stream_with_a_season_takes_its_word_in_place_of_the_views():
    rng = np.random.default_rng(0)
    values = np.concatenate([week(rng) for _ in range(6)])
    samples = [Sample(i * 1800.0, {"a": float(v)}) for i, v in enumerate(values)]
    detector = make(("a",), season_s=WEEK * 1800.0, reference=ReferenceSettings(size=500, warm_up=400))
    found = feed(detector, samples)
    assert np.isnan(found[0].season_scores[0])
    assert np.isfinite(found[-1].season_scores[0])
    state = detector.snapshot()
    again = make(("a",), season_s=WEEK * 1800.0, reference=ReferenceSettings(size=500, warm_up=400))
    again.restore(state)
    more = [Sample((len(values) + i) * 1800.0, {"a": 0.0}) for i in range(40)]
    assert [one.score for one in feed(detector, more)] == [one.score for one in feed(again, more)]
