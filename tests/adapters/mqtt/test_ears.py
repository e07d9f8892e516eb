"""When an echo is sent, and when its absence counts: in a clock of our own."""

import math
from itertools import pairwise

from agent.adapters.mqtt import Ears, Hearing
from agent.adapters.mqtt.ears import MAX_FAILURES, MAX_PATIENCE_S

TWO_DAYS_S = 172_800


def connected(interval_s=60.0):
    ears = Ears(interval_s)
    ears.connected()
    return ears


def proven(at=0.0):
    ears = connected()
    ears.sent(at)
    ears.echoed(at + 0.5)
    return ears


def test_a_plant_that_stops_for_two_days_is_not_deafness():
    ears, sent = connected(), 0
    for now in range(TWO_DAYS_S):
        assert not ears.missing(now)
        if ears.due(now):
            sent += 1
            ears.sent(now)
            ears.echoed(now + 0.2)
    assert ears.hearing is Hearing.PROVEN
    assert sent == TWO_DAYS_S // 60
    assert round(ears.round_trip_s, 3) == 0.2


def test_an_echo_that_does_not_come_back_while_all_is_silent_is_missing_after_one_interval():
    ears = proven()
    ears.sent(60.0)
    assert not ears.missing(119.9)
    assert ears.missing(120.0)
    assert ears.failed(120.0)
    assert ears.hearing is Hearing.LOST


def test_an_echo_behind_a_backlog_is_not_missing_while_the_backlog_comes():
    ears = proven()
    ears.sent(60.0)
    for now in range(60, 600):
        ears.excused(now)
        assert not ears.missing(now)
        if ears.due(now):
            ears.sent(now)
    ears.echoed(600.0)
    assert ears.hearing is Hearing.PROVEN


def test_an_echo_dropped_in_a_full_queue_is_sent_again_and_has_its_time():
    ears = proven()
    ears.sent(60.0)  # dropped
    ears.excused(61.0)
    assert ears.due(120.0)
    ears.sent(120.0)
    assert not ears.missing(179.9)
    assert ears.missing(180.0)


def test_where_no_echo_ever_came_back_connections_are_given_up_only_a_few_times():
    ears, closed = connected(), 0
    for now in range(0, TWO_DAYS_S, 10):
        if ears.missing(now) and ears.failed(now):
            closed += 1
            ears.connected()
        if ears.due(now):
            ears.sent(now)
    assert closed == MAX_FAILURES - 1
    assert ears.given_up
    assert not ears.hopeless
    assert ears.hearing is Hearing.UNPROVEN
    ears.echoed(TWO_DAYS_S)
    assert (ears.hearing, ears.given_up) == (Hearing.PROVEN, False)


def test_where_echoes_came_back_connecting_goes_on_but_ever_more_rarely():
    ears = proven()
    closed = []
    for now in range(60, TWO_DAYS_S, 10):
        if ears.missing(now) and ears.failed(now):
            closed.append(now)
            ears.connected()
            assert ears.hopeless == (len(closed) >= MAX_FAILURES)
        if ears.due(now):
            ears.sent(now)
    gaps = [later - earlier for earlier, later in pairwise(closed)]
    assert gaps[:2] == [60, 60]
    assert MAX_PATIENCE_S <= gaps[-1] <= MAX_PATIENCE_S + 20
    ears.sent(TWO_DAYS_S)
    ears.echoed(TWO_DAYS_S + 1.0)
    assert (ears.hearing, ears.failures, ears.hopeless) == (Hearing.PROVEN, 0, False)


def test_a_refusal_is_told_once_and_ends_it_for_this_connection():
    ears = connected()
    ears.sent(0.0)
    assert ears.refused()
    assert ears.hearing is Hearing.REFUSED
    assert not ears.due(1000.0)
    assert not ears.missing(1000.0)
    ears.connected()
    assert ears.due(1001.0)
    ears.sent(1001.0)
    assert not ears.refused()
    ears.connected()
    ears.sent(2000.0)
    ears.echoed(2001.0)  # the rules were changed
    assert ears.hearing is Hearing.PROVEN
    assert ears.refused()


def test_off_means_off():
    ears = connected(0.0)
    assert ears.hearing is Hearing.OFF
    assert not ears.due(1e9)
    assert not ears.missing(1e9)
    assert math.isnan(ears.round_trip_s)


def test_an_echo_of_an_earlier_connection_proves_nothing():
    ears = connected()
    ears.sent(0.0)
    ears.connected()
    ears.echoed(1.0)
    assert ears.hearing is Hearing.UNPROVEN
