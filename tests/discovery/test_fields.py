from __future__ import annotations

import pytest

from agent.discovery.fields import FieldStatistics, Role, words_of

NOW = 1_790_000_000.0


def role(name, values, every_s=10.0):
    field = FieldStatistics()
    for number, value in enumerate(values):
        field.take(value, NOW + every_s * number)
    return field.role(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Wifi.lastSeen", ["last", "seen"]),
        ("UptimeSec", ["uptime", "sec"]),
        ("a.RSSI", ["rssi"]),
        ("minute_ts", ["minute", "ts"]),
    ],
)
def test_names_are_taken_apart(name, words):
    assert words_of(name) == words


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("temp", [20.1, 20.3, 20.2], Role.MEASUREMENT),
        ("door", [True, False, True], Role.MEASUREMENT),
        ("ts", [NOW, NOW + 10, NOW + 20], Role.TIME),
        ("at", [1000 * NOW, 1000 * NOW + 9e3], Role.TIME),
        ("last_boot", [NOW - 9e7] * 3, Role.TIME),
        ("bytes", [1.2e9, 1.3e9, 1.4e9, 1.5e9], Role.COUNTER),
        ("when", ["2026-09-21T14:13:20Z"], Role.TIME),
        ("uptime", [5.0], Role.CLOCK),
        ("age", [3 + 10 * i for i in range(7)], Role.CLOCK),
        ("n", [7 + i for i in range(7)], Role.SEQUENCE),
        ("seq", [5, 5, 9], Role.SEQUENCE),
        ("device.id", [4, 4], Role.IDENTIFIER),
        ("humid_channel", [1.5, 1.5], Role.MEASUREMENT),
        ("energy_total", [1.0, 1.5, 1.5, 1.6, 2.0], Role.COUNTER),
        ("energy", [120.5], Role.COUNTER),
        ("count", [3, 5, 4, 6], Role.MEASUREMENT),
        ("rotations", [3 * i + i % 2 for i in range(30)], Role.COUNTER),
        ("slope", [0.3 * i for i in range(30)], Role.MEASUREMENT),
        ("state", ["ON", "OFF"], Role.TEXT),
        ("t", ["21.5", "21.7"], Role.MEASUREMENT),
        ("code", ["007", "12"], Role.TEXT),
        ("mixed", ["unknown", 3.0], Role.MEASUREMENT),
    ],
)
def test_roles(name, values, expected):
    assert role(name, values) is expected


def test_statistics_of_topics_are_joined():
    some, others = FieldStatistics(), FieldStatistics(addressable=False)
    for i in range(5):
        some.take(10.0 + i, NOW + i)
        others.take(-3.5 + i, NOW + i)
    some.merge(others)
    assert (some.low, some.high, some.seen, some.steps, some.rises) == (-3.5, 14.0, 10, 8, 8)
    assert not some.whole
    assert not some.addressable


@pytest.mark.parametrize(
    ("values", "usable"),
    [
        ([NOW + 0.5, NOW + 10.5], True),
        ([NOW, NOW], False),  # its readings would be duplicates
        ([NOW + 7200, NOW + 7210], False),
        ([NOW - 300, NOW - 290], False),
        ([NOW, "soon"], False),
    ],
)
def test_a_time_is_used_only_if_it_rises_and_is_about_now(values, usable):
    field = FieldStatistics()
    for number, value in enumerate(values):
        field.take(value, NOW + 10.0 * number)
    assert field.tells_time is usable
