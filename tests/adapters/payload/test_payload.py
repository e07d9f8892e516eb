from __future__ import annotations

import gzip
import importlib
import json
import sys
from datetime import UTC, datetime

import cbor2
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.adapters.payload import (
    MAX_ELEMENTS,
    ByteOrder,
    Compression,
    Format,
    NumberType,
    PayloadRejected,
    PayloadSettings,
    RawSettings,
    RejectReason,
    TextNumbers,
    TimeSettings,
    TimeUnit,
    make_decoder,
    payload_problems,
)
from agent.adapters.payload.compression import ZSTD_MODULE
from agent.core.windowing import MAX_CHANNELS

ZSTD = importlib.import_module(ZSTD_MODULE)
NOW = 1_700_000_000.0


def decode(payload, limit=500_000, **settings):
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
        ("x" * 500_001, RejectReason.TOO_LARGE),
        ('{"a":' * 40 + "1" + "}" * 40, RejectReason.TOO_DEEP),
        ("[" * 10_000 + "]" * 10_000, RejectReason.TOO_DEEP),
        ("[" + "1," * MAX_ELEMENTS + "NaN]", RejectReason.TOO_MANY_ELEMENTS),
        (json.dumps(list(range(MAX_CHANNELS + 1))), RejectReason.TOO_MANY_CHANNELS),
        ("[" + "[]," * (MAX_ELEMENTS // 2) + "[" + "0," * (MAX_ELEMENTS // 2) + "0]]", RejectReason.TOO_MANY_ELEMENTS),
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
        ("a\n" + "1\n" * 16_385, RejectReason.TOO_MANY_SAMPLES),
        ("\n" * 20_000, RejectReason.TOO_MANY_SAMPLES),
        ("," * (MAX_ELEMENTS + 1), RejectReason.TOO_MANY_ELEMENTS),
    ],
)
def test_bad_csv(payload, expected):
    assert reason(payload, format=Format.CSV, limit=200_000) is expected


def encoded(document, form):
    return {Format.JSON: json.dumps, Format.MSGPACK: msgspec.msgpack.encode, Format.CBOR: cbor2.dumps}[form](document)


TREES = [Format.JSON, Format.MSGPACK, Format.CBOR]
KEYS = st.text(alphabet="abc", min_size=1, max_size=3)
NUMBERS = st.dictionaries(KEYS, st.floats(-1e30, 1e30) | st.integers(-(2**63), 2**63), min_size=1, max_size=20)


@pytest.mark.parametrize("form", TREES)
@settings(max_examples=30)
@given(inner=NUMBERS)
def test_numbers_come_out_as_they_went_in(form, inner):
    payload = encoded({"in": inner, "list": [1, {"x": True}]}, form)
    assert values(payload, format=form) == {f"in.{key}": float(value) for key, value in inner.items()} | {
        "list.0": 1.0,
        "list.1.x": 1.0,
    }


@pytest.mark.parametrize("form", [Format.MSGPACK, Format.CBOR])
def test_keys_that_are_integers_are_names_and_others_are_left_out(form):
    payload = encoded({1: 2.5, "a": {-3: 4.0}, b"b": 1, "c": b"x", "d": float("nan")}, form)
    assert values(payload, format=form) == {"1": 2.5, "a.-3": 4.0}
    assert values(payload, format=form, channels=("1",)) == {"1": 2.5}


@pytest.mark.parametrize("form", [Format.MSGPACK, Format.CBOR])
def test_a_time_of_the_format_s_own_needs_no_unit(form):
    at = datetime.fromtimestamp(1_600_000_000.5, UTC)
    assert decode(encoded({"ts": at, "a": 1}, form), format=form, time=TimeSettings(path="ts"))[0].at == at.timestamp()


@pytest.mark.parametrize(
    ("form", "payload", "expected"),
    [
        (Format.MSGPACK, b"", RejectReason.MALFORMED),
        (Format.MSGPACK, b"\x01\x02", RejectReason.MALFORMED),  # one document and more
        (Format.MSGPACK, b"\xdd\xff\xff\xff\xff", RejectReason.MALFORMED),  # four billion elements, it says
        (Format.MSGPACK, b"\x81\xa1\xff\x01", RejectReason.MALFORMED),  # text that is not UTF-8
        (Format.MSGPACK, b"\x91" * 50 + b"\x01", RejectReason.TOO_DEEP),
        (Format.MSGPACK, b"\x91" * 10_000 + b"\x01", RejectReason.TOO_DEEP),
        (Format.MSGPACK, b"\x91" * 100_000 + b"\x01", RejectReason.TOO_MANY_ELEMENTS),
        (Format.CBOR, b"\x81" * 100_000 + b"\x01", RejectReason.TOO_MANY_ELEMENTS),
        (Format.CBOR, b"", RejectReason.MALFORMED),
        (Format.CBOR, b"\x01\x02", RejectReason.MALFORMED),
        (Format.CBOR, b"\x9b" + b"\x7f" * 8, RejectReason.MALFORMED),
        (Format.CBOR, b"\x5b" + b"\x7f" * 8, RejectReason.MALFORMED),
        (Format.CBOR, b"\x81" * 50 + b"\x01", RejectReason.TOO_DEEP),
        (Format.CBOR, b"\x81" * 10_000 + b"\x01", RejectReason.TOO_DEEP),
        (Format.CBOR, b"\xd9\xd9\xf7" * 10_000 + b"\x01", RejectReason.TOO_DEEP),  # nested tags
    ],
)
def test_bad_documents(form, payload, expected):
    assert reason(payload, format=form) is expected


def test_of_cbor_s_tags_only_numbers_and_times_are_heeded():
    payload = bytes.fromhex("a7")
    payload += b"\x61a" + cbor2.dumps(2**70)
    payload += b"\x61b" + bytes.fromhex("c48221196ab3")  # 273.15 as [-2, 27315] (RFC 8949, 3.4.4)
    payload += b"\x61c" + cbor2.dumps(cbor2.CBORTag(35, "a+"))  # a regular expression
    payload += b"\x61d" + bytes.fromhex("d81c81d81d00")  # a list that holds itself
    payload += b"\x61e" + cbor2.dumps(-(2**2000))
    payload += b"\x61f" + bytes.fromhex("c4821a7fffffff01")  # a number of two billion digits
    payload += b"\x61g" + cbor2.dumps(cbor2.CBORTag(4, "x"))
    assert values(payload, format=Format.CBOR) == {"a": 2.0**70, "b": 273.15}


def test_large_integers_as_keys_that_would_all_collide_are_no_work():
    clash = [(2**61 - 1) << 64 | (2**61 - 1) * one for one in range(2)]  # only their hashes are alike
    payload = cbor2.dumps({clash[0]: 1, clash[1]: 2, "a": 3})
    assert values(payload, format=Format.CBOR) == {"a": 3.0}


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_compressed_payloads(compression):
    pack = {Compression.GZIP: gzip.compress, Compression.ZSTD: ZSTD.compress}[compression]
    packed = pack(b'{"a": 1.5}')
    assert values(packed, compression=compression) == {"a": 1.5}
    assert values(pack(b'{"a": ') + pack(b"2}"), compression=compression) == {"a": 2.0}
    for broken in (b"", b"{}", packed[:-1], packed + b"x", pack(b"") * 20):
        assert reason(broken, compression=compression) is RejectReason.MALFORMED
    bomb = pack(b"0" * 5_000_000)
    assert len(bomb) < 10_000
    assert reason(bomb, compression=compression) is RejectReason.TOO_LARGE
    assert reason(pack(b"0" * 300_000) * 2, compression=compression) is RejectReason.TOO_LARGE


def test_a_frame_that_asks_for_gigabytes_is_refused():
    huge = ZSTD.ZstdCompressor(options={ZSTD.CompressionParameter.window_log: 27}).compress(b"1" * 200)
    assert reason(huge, compression=Compression.ZSTD) is RejectReason.MALFORMED


def test_what_is_not_installed_is_one_problem_with_its_remedy(monkeypatch):
    settings = PayloadSettings(format=Format.CBOR, compression=Compression.ZSTD)
    assert payload_problems(settings) == []
    for module in ("cbor2", ZSTD_MODULE):
        monkeypatch.setitem(sys.modules, module, None)
    assert [str(one) for one in payload_problems(settings)] == [
        "format: expected the package cbor2, found none; pip install 'redshank[formats]'",
        "compression: expected the package backports.zstd, found none; pip install 'redshank[formats]'",
    ]


ANY_TREE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
)


@pytest.mark.parametrize("form", [one for one in Format if one is not Format.SPARKPLUG])
@settings(max_examples=60)
@given(data=st.data())
def test_nothing_that_arrives_raises_anything_but_a_rejection(form, data):
    timed = data.draw(st.sampled_from([None, TimeSettings(path="ts"), TimeSettings(path="a.0", unit=TimeUnit.ISO)]))
    trees = ANY_TREE.map(lambda document: encoded(document, form if form in TREES else Format.JSON))
    payload = data.draw(st.binary(max_size=300) | trees)
    raw = RawSettings(dtype=data.draw(st.sampled_from(NumberType)), byte_order=data.draw(st.sampled_from(ByteOrder)))
    try:
        samples = decode(payload, format=form, time=timed, raw=raw)
    except PayloadRejected:
        return
    for sample in samples:
        assert sample.values
        assert all(abs(value) < float("inf") for value in sample.values.values())


def test_limits_are_settings():
    assert reason("[1, 2, 3]", max_channels=2) is RejectReason.TOO_MANY_CHANNELS
    assert reason("a,b,c\n1,2,3", format=Format.CSV, max_channels=2) is RejectReason.TOO_MANY_CHANNELS
    assert len(values(json.dumps(list(range(300))), max_channels=300)) == 300
    assert reason('{"a": {"b": [1]}}', max_depth=2) is RejectReason.TOO_DEEP
    assert values('{"a": {"b": [1]}}', max_depth=3) == {"a.b.0": 1.0}
    assert values('{"a": {"b": [1]}}', max_depth=2, channels=("a.b.0",)) == {"a.b.0": 1.0}
    assert reason(bytes(6), format=Format.RAW, max_samples=2) is RejectReason.TOO_MANY_SAMPLES
    for columns in ((), ("a",)):
        table = "a\n" * (not columns) + "1\n2\n3\n"
        assert reason(table, format=Format.CSV, max_samples=2, columns=columns) is RejectReason.TOO_MANY_SAMPLES
        assert len(decode(table, format=Format.CSV, max_samples=3, columns=columns)) == 3


def test_lines_of_csv_end_where_csv_says():
    quoted = decode('a,b\r\n1,"x\ny"\r2,\x0b3\n', format=Format.CSV)
    assert [one.values for one in quoted] == [{"a": 1.0}, {"a": 2.0, "b": 3.0}]


@pytest.mark.parametrize("one", [b"\x80", b"\xa0", b"\x00", b"\xf6"])
@pytest.mark.parametrize(("form", "head"), [(Format.MSGPACK, b"\xdd"), (Format.CBOR, b"\x9a")])
def test_a_binary_document_of_many_small_things_is_rejected_before_it_is_read(form, head, one):
    payload = head + (MAX_ELEMENTS + 10).to_bytes(4, "big") + one * (MAX_ELEMENTS + 10)
    assert reason(payload, format=form) is RejectReason.TOO_MANY_ELEMENTS
