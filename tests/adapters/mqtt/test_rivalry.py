from __future__ import annotations

import pytest

from agent.adapters.mqtt.rivalry import CALM_S, MAX_YIELD_S, SOON_S, SUSPICIOUS, Rivalry


def fight(rivalry, now, lasted_s, *, taken_over=False, wordless=True):
    """Let a connection begin at `now` and end; return when it ended."""
    rivalry.opened(now)
    rivalry.ended(now + lasted_s, taken_over=taken_over, wordless=wordless)
    return now + lasted_s


def test_a_broker_that_names_a_rival_is_believed_at_once():
    rivalry = Rivalry()
    now = fight(rivalry, 0.0, 1000.0, taken_over=True, wordless=False)
    assert rivalry.contested(now)
    assert rivalry.yield_s(now) == 2.0


def test_without_a_word_it_takes_several_short_connections_in_a_row():
    rivalry, now = Rivalry(), 0.0
    for number in range(1, SUSPICIOUS + 1):
        now = fight(rivalry, now, 0.9 * SOON_S)
        assert rivalry.contested(now) == (number == SUSPICIOUS)
        assert (rivalry.yield_s(now) > 0) == (number == SUSPICIOUS)


@pytest.mark.parametrize(("lasted_s", "wordless"), [(SOON_S, True), (0.1, False)])
def test_a_longer_connection_or_a_reason_breaks_the_row(lasted_s, wordless):
    rivalry, now = Rivalry(), 0.0
    for _ in range(SUSPICIOUS - 1):
        now = fight(rivalry, now, 0.1)
    now = fight(rivalry, now, lasted_s, wordless=wordless)
    for _ in range(SUSPICIOUS - 1):
        now = fight(rivalry, now, 0.1)
    assert not rivalry.contested(now)


def test_attempts_that_fail_tell_nothing():
    rivalry = Rivalry()
    for now in range(10):
        rivalry.ended(float(now), taken_over=False, wordless=True)
    assert not rivalry.contested(10.0)


@pytest.mark.parametrize("taken_over", [True, False])
def test_the_field_is_left_for_longer_each_time_and_never_for_as_long_as_calm_takes(taken_over):
    rivalry, now, waits = Rivalry(), 0.0, []
    for _ in range(12):
        now = fight(rivalry, now, 0.1, taken_over=taken_over)
        waits.append(rivalry.yield_s(now))
        now += waits[-1]
    assert waits == sorted(waits)
    assert waits[-1] == MAX_YIELD_S < CALM_S


def test_longer_waits_do_not_look_like_peace():
    """With MQTT 3.1.1 both leave each other the field for seconds: their connections last, and end without a word."""
    rivalry, now = Rivalry(), 0.0
    for _ in range(SUSPICIOUS):
        now = fight(rivalry, now, 0.1)
    now = fight(rivalry, now, 0.9 * MAX_YIELD_S)
    assert rivalry.contested(now)


def test_a_connection_that_lasts_is_peace_and_a_later_rival_is_a_new_one():
    rivalry = Rivalry()
    now = fight(rivalry, 0.0, 1.0, taken_over=True)
    rivalry.opened(now)
    assert rivalry.contested(now + 0.9 * CALM_S)
    assert not rivalry.contested(now + CALM_S)
    rivalry.ended(now + CALM_S, taken_over=False, wordless=True)
    assert not rivalry.contested(now + CALM_S)
    now = fight(rivalry, now + 2 * CALM_S, 1.0, taken_over=True)
    assert rivalry.yield_s(now) == 2.0
