from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.adapters.payload import (
    MAX_CHANNELS,
    Format,
    PayloadRejected,
    PayloadSettings,
    RejectReason,
    TextNumbers,
    TimeSettings,
    TimeUnit,
    make_decoder,
)

NOW = 1_700_000_000.0


def decode(payload, limit=100_000, **settings):
    if isinstance(payload, str):
        payload = payload.encode()
    return make_decoder(PayloadSettings(**settings), limit)(payload, NOW)


def values(payload, **settings):
    return decode(payload, **settings)[0].values


def reason(payload, **settings):
    with pytest.raises(PayloadRejected) as caught:
        decode(payload, **settings)
    return caught.value.reason


def test_every_numeric_leaf_is_a_channel_unless_channels_are_named():
    payload = json.dumps({"a": 1, "b": {"c": 2.5, "name": "x"}, "d": [3, {"e": 4}], "ok": True, "none": None})
    assert values(payload) == {"a": 1.0, "b.c": 2.5, "d.0": 3.0, "d.1.e": 4.0, "ok": 1.0}
    assert values(payload, channels=("b.c", "d.1.e", "missing", "a.b", "d.7")) == {"b.c": 2.5, "d.1.e": 4.0}
    assert values("7.5") == {"value": 7.5}


@pytest.mark.parametrize(
    ("form", "payload"),
    [
        ("json", '{"temp": 1, "last_seen": 2, "update": {"installed": 3}, "update_rate": 4}'),
        ("csv", "temp,last_seen,update.installed,update_rate\n1,2,3,4"),
    ],
)
def test_ignored_channels_and_what_lies_below_them_are_left_out(form, payload):
    ignored = ("last_seen", "update")
    assert values(payload, format=Format(form), ignore_channels=ignored) == {"temp": 1, "update_rate": 4}
    everything = (*ignored, "temp", "update_rate")
    assert reason(payload, format=Format(form), ignore_channels=everything) is RejectReason.NO_VALUES


def test_numbers_as_text_count_only_when_asked_for():
    assert values('{"a": "1.5", "b": 2, "c": "NaN", "d": "x"}', text_numbers=TextNumbers.PARSE) == {"a": 1.5, "b": 2.0}
    assert values('{"a": "1.5", "b": 2}') == {"b": 2.0}


@pytest.mark.parametrize("payload", ['{"\\ud800": 1.0, "x": 2}', '{"x": 2, "name": "\\udc00"}'])
def test_text_that_could_not_be_written_again_is_malformed(payload):
    assert reason(payload) is RejectReason.MALFORMED


def test_what_float_cannot_hold_is_missing():
    assert values('{"a": 1e31, "b": -1e30, "c": -1e31}') == {"b": -1e30}
    assert values('{"a": NaN, "b": 2, "c": -Infinity}') == {"b": 2.0}
    assert values('{"a": 1e400, "b": 1, "c": ' + "9" * 400 + "}") == {"b": 1.0}


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ("", RejectReason.MALFORMED),
        ("{", RejectReason.MALFORMED),
        (b"\xff\xfe", RejectReason.MALFORMED),
        ('{"a": NaN}', RejectReason.NO_VALUES),
        ("null", RejectReason.NO_VALUES),
        ('{"a": "text"}', RejectReason.NO_VALUES),
        ("x" * 100_001, RejectReason.TOO_LARGE),
        ('{"a":' * 40 + "1" + "}" * 40, RejectReason.TOO_DEEP),
        ("[" * 10_000 + "]" * 10_000, RejectReason.TOO_DEEP),
        (json.dumps(list(range(MAX_CHANNELS + 1))), RejectReason.TOO_MANY_CHANNELS),
    ],
)
def test_each_bad_payload_has_its_reason(payload, expected):
    assert reason(payload) is expected


@pytest.mark.parametrize(
    ("unit", "zone", "stamp", "at"),
    [
        (TimeUnit.S, "UTC", 1_600_000_000.5, 1_600_000_000.5),
        (TimeUnit.MS, "UTC", 1_600_000_000_500, 1_600_000_000.5),
        (TimeUnit.US, "UTC", 1_600_000_000_500_000, 1_600_000_000.5),
        (TimeUnit.NS, "UTC", 1_600_000_000_500_000_000, 1_600_000_000.5),
        (TimeUnit.S, "UTC", "1600000000", 1_600_000_000.0),
        (TimeUnit.ISO, "UTC", "2020-09-13T12:26:40Z", 1_600_000_000.0),
        (TimeUnit.ISO, "UTC", "2020-09-13T14:26:40+02:00", 1_600_000_000.0),
        (TimeUnit.ISO, "Europe/Berlin", "2020-09-13 14:26:40", 1_600_000_000.0),
    ],
)
def test_timestamps(unit, zone, stamp, at):
    payload = json.dumps({"ts": stamp, "a": 1})
    assert decode(payload, time=TimeSettings(path="ts", unit=unit, zone=zone))[0].at == pytest.approx(at)


def test_without_a_time_path_the_arrival_counts():
    assert decode('{"a": 1}')[0].at == NOW


@pytest.mark.parametrize("stamp", [None, "soon", 0, -5, True, [1], {}, float("1e308")])
def test_bad_timestamps_are_rejected(stamp):
    found = reason(json.dumps({"ts": stamp, "a": 1}), time=TimeSettings(path="ts"))
    assert found in (RejectReason.BAD_TIMESTAMP, RejectReason.FUTURE)


def test_a_missing_timestamp_and_one_from_the_future_are_told_apart():
    assert reason('{"a": 1}', time=TimeSettings(path="ts")) is RejectReason.BAD_TIMESTAMP
    assert reason(json.dumps({"ts": NOW + 4000, "a": 1}), time=TimeSettings(path="ts")) is RejectReason.FUTURE


def test_the_timestamp_is_no_channel():
    assert values(json.dumps({"m": {"ts": 1_600_000_000}, "a": 1}), time=TimeSettings(path="m.ts")) == {"a": 1.0}


def test_plain_values():
    assert values(" 21.5\n", format=Format.VALUE) == {"value": 21.5}
    assert values(b"21.5", format=Format.VALUE, channels=("temp",)) == {"temp": 21.5}
    for payload in ("21.5 C", "", "nan", "inf", "1" * 200, b"\xff"):
        assert reason(payload, format=Format.VALUE) is RejectReason.MALFORMED


def test_csv_with_configured_columns_and_with_a_header():
    settings = {"format": Format.CSV, "time": TimeSettings(path="t")}
    samples = decode("1600000000,1,\n1600000001,3,x\n", columns=("t", "a", "b"), **settings)
    assert [(s.at, s.values) for s in samples] == [(1_600_000_000.0, {"a": 1.0}), (1_600_000_001.0, {"a": 3.0})]
    assert decode("t;a\n1600000000;2", delimiter=";", **settings)[0].values == {"a": 2.0}
    assert values("a,b\n1,2", format=Format.CSV, channels=("b",)) == {"b": 2.0}


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ("", RejectReason.NO_VALUES),
        ("a,b\nx,y", RejectReason.NO_VALUES),
        (b"\xff", RejectReason.MALFORMED),
        ("a\n" + '"' + "1" * 140_000, RejectReason.MALFORMED),
        (",".join(f"c{i}" for i in range(300)) + "\n" + ",".join("1" * 300), RejectReason.TOO_MANY_CHANNELS),
    ],
)
def test_bad_csv(payload, expected):
    assert reason(payload, format=Format.CSV, limit=200_000) is expected


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
)


@pytest.mark.parametrize("form", list(Format))
@pytest.mark.parametrize("timed", [None, TimeSettings(path="ts"), TimeSettings(path="a.0", unit=TimeUnit.ISO)])
@given(payload=st.binary(max_size=300) | ANY_JSON.map(lambda document: json.dumps(document).encode()))
def test_nothing_that_arrives_raises_anything_but_a_rejection(form, timed, payload):
    try:
        samples = decode(payload, format=form, time=timed)
    except PayloadRejected:
        return
    for sample in samples:
        assert sample.values
        assert all(abs(value) < float("inf") for value in sample.values.values())
