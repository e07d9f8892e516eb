from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from agent.core.alerting import AlertEvent, AlertKind, AlertMachine, AlertSettings
from agent.core.quiet import QuietHours, QuietSpan

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = QuietSpan(begin=22 * 60, end=6 * 60)
NOON = QuietSpan(begin=12 * 60, end=13 * 60)


def at(text, zone=UTC):
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


@pytest.mark.parametrize(
    ("text", "covered"),
    [
        ("2024-01-10T21:59:59", False),
        ("2024-01-10T22:00:00", True),
        ("2024-01-11T00:00:00", True),
        ("2024-01-11T05:59:59", True),
        ("2024-01-11T06:00:00", False),
        ("2024-01-11T11:59:59", False),
        ("2024-01-11T12:00:00", True),
        ("2024-01-11T13:00:00", False),
    ],
)
def test_a_span_goes_from_its_begin_up_to_its_end_over_midnight_too(text, covered):
    for zone in (UTC, BERLIN):
        assert QuietHours((NIGHT, NOON), zone).cover(at(text, zone)) is covered


def test_the_zones_clocks_count_also_when_they_are_changed():
    hours = QuietHours((QuietSpan(begin=120, end=1440),), BERLIN)
    assert hours.cover(at("2024-03-31T00:59:59")) is False  # 01:59:59, and then 03:00
    assert hours.cover(at("2024-03-31T01:00:00")) is True
    assert hours.cover(at("2024-03-31T22:00:00")) is False  # midnight


def run(pattern, quiet):
    """Return the events of decisions, one an hour from 20:00 on: `x` odd, `.` normal."""
    machine = AlertMachine(
        AlertSettings(cooldown_s=0.0, clear_after=1), agent="pi", stream="pump", kind=AlertKind.ANOMALY, quiet=quiet
    )
    begun = at("2024-01-10T20:00:00")
    found = [machine.observe(begun + 3600 * i, odd=mark == "x") for i, mark in enumerate(pattern)]
    return [(20 + i, one.event, (one.started_at - begun) / 3600 + 20) for i, one in enumerate(found) if one is not None]


def test_no_alert_begins_in_quiet_hours_and_one_that_fires_ends():
    quiet = QuietHours((NIGHT,), UTC)
    raised, cleared = AlertEvent.RAISED, AlertEvent.CLEARED
    assert run("xx..........", quiet) == [(21, raised, 20), (22, cleared, 20)]
    assert run(".xx.........", quiet) == []
    assert run(".xx.........", None) == [(22, raised, 21), (23, cleared, 21)]
    assert run("...xxxxx....", quiet) == []
    assert run("xxxx........", quiet) == [(21, raised, 20), (24, cleared, 20)]


def test_what_is_odd_when_quiet_hours_end_begins_then():
    assert run("...xxxxxxxxx.", QuietHours((NIGHT,), UTC)) == [
        (31, AlertEvent.RAISED, 30),
        (32, AlertEvent.CLEARED, 30),
    ]
