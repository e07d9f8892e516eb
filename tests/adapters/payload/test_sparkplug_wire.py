from __future__ import annotations

import gzip
import zlib

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.adapters.payload import MAX_ELEMENTS, PayloadRejected, RejectReason
from agent.adapters.payload.sparkplug_wire import MAX_METRICS, read_payload
from tests import sparkplug

LIMIT = 1_000_000
WORDS = st.integers(0, 2**64 - 1)
VALUES = ["int_value", "long_value", "float_value", "double_value", "boolean_value", "string_value", "bytes_value"]


TEXTS = st.text("ab/\u00e9", max_size=5)
FIELDS = {
    "name": TEXTS,
    "alias": WORDS,
    "timestamp": WORDS,
    "datatype": st.integers(0, 2**32 - 1),
    "is_historical": st.booleans(),
    "is_null": st.booleans(),
}
NUMBERS = [
    st.integers(0, 2**32 - 1),
    WORDS,
    st.floats(width=32),
    st.floats(),
    st.booleans(),
    TEXTS,
    st.binary(max_size=3),
]
VALUE = st.one_of(
    *(values.map(lambda value, name=name: {name: value}) for name, values in zip(VALUES, NUMBERS, strict=True)),
    st.just({}),
)
METRICS = st.lists(
    st.builds(
        lambda fields, value: sparkplug.Metric(**fields, **value), st.fixed_dictionaries({}, optional=FIELDS), VALUE
    ),
    max_size=4,
)


def same(found, made):
    for name in ("name", "alias", "timestamp", "datatype"):
        assert getattr(found, name) == (getattr(made, name) if made.HasField(name) else None)
    assert (found.is_historical, found.is_null) == (made.is_historical, made.is_null)
    given_value = [one for one in VALUES[:5] if made.HasField(one)]
    if not given_value:
        assert found.number == 0
    else:
        value = getattr(made, given_value[0])
        assert found.number == 10 + VALUES.index(given_value[0])
        assert found.value == value or value != value  # noqa: PLR0124  NaN is the only value unlike itself


@settings(max_examples=60)
@given(made=st.builds(sparkplug.Payload, metrics=METRICS, seq=WORDS, timestamp=WORDS))
def test_it_reads_what_protobuf_writes(made):
    found = read_payload(made.SerializeToString(), LIMIT)
    assert (found.seq, found.timestamp, len(found.metrics)) == (made.seq, made.timestamp, len(made.metrics))
    for one, other in zip(found.metrics, made.metrics, strict=True):
        same(one, other)


@settings(max_examples=100)
@given(
    content=st.binary(max_size=60)
    | st.builds(sparkplug.Payload, metrics=METRICS).flatmap(
        lambda made: st.tuples(st.just(made.SerializeToString()), st.integers(0, 80), st.integers(0, 255)).map(
            lambda parts: parts[0][: parts[1]] + bytes([parts[2]]) + parts[0][parts[1] + 1 :]
        )
    )
)
def test_whatever_arrives_it_reads_what_protobuf_reads_or_rejects_it(content):
    try:
        found = read_payload(content, LIMIT)
    except PayloadRejected:
        return
    try:
        made = sparkplug.Payload.FromString(content)
    except DecodeError:
        return  # in a part that is passed over
    assert len(found.metrics) == len(made.metrics)
    assert found.seq == (made.seq if made.HasField("seq") else None)


def test_the_quality_is_found_among_the_properties():
    payload = sparkplug.Payload(metrics=[sparkplug.metric("a", 1.0, quality=500), sparkplug.metric("b", 1.0)])
    assert [one.quality for one in read_payload(payload.SerializeToString(), LIMIT).metrics] == [500, None]
    payload.metrics[0].properties.keys.insert(0, "more keys than values")
    payload.metrics[0].properties.keys.insert(0, "and more")
    assert read_payload(payload.SerializeToString(), LIMIT).metrics[0].quality is None


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_compressed_messages(pack):
    inner = sparkplug.Payload(seq=7, metrics=[sparkplug.metric("a", 1.5)]).SerializeToString()
    outer = sparkplug.Payload(uuid="SPBV1.0_COMPRESSED", body=pack(inner))
    found = read_payload(outer.SerializeToString(), LIMIT)
    assert (found.seq, found.metrics[0].value) == (7, 1.5)
    outer.body = pack(outer.SerializeToString())
    with pytest.raises(PayloadRejected, match="malformed"):
        read_payload(outer.SerializeToString(), LIMIT)
    outer.body = pack(bytes(LIMIT + 1))
    with pytest.raises(PayloadRejected, match="too_large"):
        read_payload(outer.SerializeToString(), LIMIT)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x12\x00" * (MAX_METRICS + 1), RejectReason.TOO_MANY_ELEMENTS),
        (b"\x18\x00" * (MAX_ELEMENTS + 1), RejectReason.TOO_MANY_ELEMENTS),
        (b"\x12\x7f\x0a", RejectReason.MALFORMED),  # longer than there is
        (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", RejectReason.MALFORMED),
        (b"\x18", RejectReason.MALFORMED),  # cut off
        (b"\x18" + b"\xff" * 11, RejectReason.MALFORMED),
        (b"\x0b\x0c", RejectReason.MALFORMED),  # a group
        (b"\x00\x00", RejectReason.MALFORMED),  # field 0
        (b"\x12\x03\x0a\x01\xff", RejectReason.MALFORMED),  # a name that is not UTF-8
    ],
)
def test_bad_messages(content, reason):
    with pytest.raises(PayloadRejected, match=reason.value):
        read_payload(content, LIMIT)
