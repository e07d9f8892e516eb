from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.alerting import (
    TRANSITIONS,
    AlertEvent,
    AlertKind,
    AlertMachine,
    AlertSettings,
    AlertState,
    Ending,
    Observation,
    alert_id,
)


def machine(**settings):
    settings.setdefault("cooldown_s", 0.0)
    return AlertMachine(AlertSettings(**settings), agent="pi", stream="pump", kind=AlertKind.ANOMALY)


def run(target, pattern, start=0):
    """`x` odd, `.` normal; return (index, event) of each transition."""
    found = [(i, target.observe(float(start + i), odd=mark == "x")) for i, mark in enumerate(pattern)]
    return [(i, t.event) for i, t in found if t is not None]


def test_the_table_is_complete():
    assert set(TRANSITIONS) == {(state, seen) for state in AlertState for seen in Observation}


@pytest.mark.parametrize(
    ("pattern", "events"),
    [
        (".x.x.x.", []),
        (".xx...", [(2, AlertEvent.RAISED), (5, AlertEvent.CLEARED)]),
        (".xx..x...", [(2, AlertEvent.RAISED), (8, AlertEvent.CLEARED)]),
        ("xx...xx", [(1, AlertEvent.RAISED), (4, AlertEvent.CLEARED), (6, AlertEvent.RAISED)]),
    ],
)
def test_patterns_of_decisions(pattern, events):
    assert run(machine(after=2, clear_after=3), pattern) == events


def test_an_alert_keeps_its_id_and_begins_with_its_first_odd_decision():
    m = machine(after=2, clear_after=1)
    m.observe(7.0, odd=True)
    raised, cleared = m.observe(8.0, odd=True), m.observe(9.0, odd=False)
    assert raised.id == cleared.id == alert_id("pi", "pump", AlertKind.ANOMALY, 7.0)
    assert (raised.started_at, cleared.ended_at) == (7.0, 9.0)


def test_an_update_tells_of_another_leading_part_at_most_once_a_minute():
    m = machine(after=1, clear_after=3)
    m.observe(0.0, odd=True, leading="a")
    seen = {}
    for at in range(1, 200):
        found = m.observe(float(at), odd=at % 50 != 0, leading="b" if at < 150 else "a")
        if found is not None:
            seen[at] = found
    assert [(at, t.event) for at, t in seen.items()] == [(60, AlertEvent.UPDATED), (151, AlertEvent.UPDATED)]
    assert {t.id for t in seen.values()} == {m.id}
    assert seen[60].ended_at is None


def test_a_clock_that_was_set_back_does_not_mute_alerts_for_longer_than_the_cooldown():
    m = machine(after=1, clear_after=1, cooldown_s=10.0)
    run(m, "x.", start=5000)
    m.rewind(100.0)
    assert run(m, "xxxxxxxxxxxx", start=100) == [(10, AlertEvent.RAISED)]


def test_a_later_time_alone_would_not_be_missed_after_a_restart():
    m = machine(after=1, clear_after=2)
    assert m.would_be_missed({})
    run(m, "..")
    saved = m.snapshot()
    run(m, "..", start=2)
    assert not m.would_be_missed(saved)
    m.rewind(1.0)
    assert m.would_be_missed(saved)
    run(m, "x", start=4)
    assert m.would_be_missed(saved)
    saved = m.snapshot()
    assert not m.would_be_missed(saved)
    run(m, "x", start=5)
    assert m.would_be_missed(saved)  # an operator may end it before the next decision: it ended at the last one
    saved = m.snapshot()
    m.snoozed_until = 9.0
    assert m.would_be_missed(saved)


def test_no_alert_begins_within_the_cooldown():
    m = machine(after=1, clear_after=1, cooldown_s=10.0)
    assert run(m, "x.xxxxxxxxxxxx") == [(0, AlertEvent.RAISED), (1, AlertEvent.CLEARED), (11, AlertEvent.RAISED)]


@given(st.text("x.", max_size=60), st.integers(0, 60), st.integers(1, 4), st.integers(1, 4))
def test_raised_and_cleared_alternate_and_resuming_changes_nothing(pattern, cut, after, clear_after):
    settings = {"after": after, "clear_after": clear_after, "cooldown_s": 3.0}
    whole, first, second = machine(**settings), machine(**settings), machine(**settings)
    events = run(whole, pattern)
    assert [e for _, e in events] == [AlertEvent.RAISED, AlertEvent.CLEARED] * (len(events) // 2) + (
        [AlertEvent.RAISED] if len(events) % 2 else []
    )
    early = run(first, pattern[:cut])
    second.restore(first.snapshot())
    assert early + [(i + len(pattern[:cut]), e) for i, e in run(second, pattern[cut:], cut)] == events


def test_an_operator_ends_what_fires_and_what_is_pending():
    m = machine(after=2, clear_after=1, cooldown_s=10.0)
    assert m.end(Ending.ACCEPTED) is None
    m.observe(1.0, odd=True)
    assert m.current_id == alert_id("pi", "pump", AlertKind.ANOMALY, 1.0)
    assert m.end(Ending.ACCEPTED) is None
    assert m.state is AlertState.INACTIVE
    m.observe(2.0, odd=True)
    raised = m.observe(3.0, odd=True)
    assert m.current_id == raised.id
    cleared = m.end(Ending.ACCEPTED)
    assert (cleared.id, cleared.event, cleared.ending) == (raised.id, AlertEvent.CLEARED, Ending.ACCEPTED)
    assert (cleared.at, cleared.ended_at) == (3.0, 3.0)
    assert [m.observe(at, odd=True) for at in (4.0, 5.0)] == [None, None]  # the cooldown


def test_a_snooze_is_part_of_the_state_and_states_of_old_have_none():
    m, again = machine(), machine()
    m.snoozed_until = 100.0
    assert not m.may_begin(99.0)
    assert m.may_begin(100.0)
    again.restore(m.snapshot())
    assert again.snoozed_until == 100.0
    old = m.snapshot()
    del old["snoozed_until"]
    again.restore(old)
    assert again.may_begin(0.0)
