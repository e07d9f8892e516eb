from __future__ import annotations

import base64
import gzip
import io
import json
from datetime import UTC, datetime

import cbor2
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agent.adapters.payload import Compression
from agent.discovery import forms
from agent.discovery.forms import MAX_LEAVES, Form, Kind, leaves, look

NOW = 1_790_000_000.0


def picture(form):
    file = io.BytesIO()
    Image.effect_noise((64, 48), 50).convert("RGB").save(file, form)
    return file.getvalue()


@pytest.mark.parametrize(
    ("payload", "form"),
    [
        (b"21.5", Form(Kind.VALUE)),
        (b" -3e2\n", Form(Kind.VALUE)),
        (b"true", Form(Kind.JSON)),
        (b"unavailable", Form(Kind.NO_VALUE)),
        (b"NaN", Form(Kind.NO_VALUE)),
        (b'{"a": 1}', Form(Kind.JSON)),
        (b'{"a": "on"}', Form(Kind.JSON)),
        (b"[1, 2]", Form(Kind.JSON)),
        (b'{"a": 1', Form(Kind.TEXT)),
        (b"on", Form(Kind.TEXT)),
        (b"1;2;x", Form(Kind.CSV, ";", 3)),
        (b"a\tb\n1\t2\n", Form(Kind.CSV, "\t", 2, header=True)),
        (b"1,2\n3,4", Form(Kind.CSV, ",", 2)),
        (b"21,5", Form(Kind.COMMA)),
        (b"hello, world", Form(Kind.TEXT)),
        (b"a,b\n1,2,3", Form(Kind.TEXT)),
        (b'"a,1\n', Form(Kind.TEXT)),
        (b"\xff\xfe\x01", Form(Kind.BINARY)),
        (b"RIFF0000WAVEfmt " + bytes(range(128, 256)), Form(Kind.BINARY)),
        (picture("JPEG"), Form(Kind.PICTURE)),
        (picture("PNG"), Form(Kind.PICTURE)),
        (base64.b64encode(picture("WEBP")), Form(Kind.PICTURE)),
        (picture("JPEG")[:200], Form(Kind.BINARY)),
        (gzip.compress(b'{"a": 1}'), Form(Kind.JSON, compression=Compression.GZIP)),
        (gzip.compress(b"2.5"), Form(Kind.VALUE, compression=Compression.GZIP)),
        (gzip.compress(picture("JPEG")), Form(Kind.BINARY)),
        (gzip.compress(b"on"), Form(Kind.BINARY)),
        (gzip.compress(b'{"a": 1}')[:-3], Form(Kind.BINARY)),
        (msgspec.msgpack.encode({"a": {"b": 1.5}, 3: 4}), Form(Kind.MSGPACK)),
        (msgspec.msgpack.encode({"a": "on"}), Form(Kind.MSGPACK)),
        (msgspec.msgpack.encode([1.5, 200]), Form(Kind.BINARY)),
        (cbor2.dumps({"a": 1.5, "b": [1, 2]}), Form(Kind.CBOR)),
        (cbor2.dumps({"a": 1.5})[:-1], Form(Kind.BINARY)),
        (
            json.dumps({"camera": {"image": base64.b64encode(picture("JPEG")).decode()}}).encode(),
            Form(Kind.JSON_PICTURE, path="camera.image"),
        ),
        (b"[" * 40 + b"1" + b"]" * 40, Form(Kind.TEXT)),
        (json.dumps(list(range(300))).encode(), Form(Kind.TEXT)),  # more channels than the agent takes
    ],
)
def test_a_payload_is_what_the_agent_can_read_it_as(payload, form):
    assert look(payload, NOW).form == form


def test_what_needs_a_package_that_is_missing_is_told(monkeypatch):
    packed = gzip.compress(b"2.5")
    monkeypatch.setattr(forms, "payload_problems", lambda _: ["missing"])
    assert look(packed, NOW).form == Form(Kind.MISSING)
    assert look(cbor2.dumps({"a": 1.5}), NOW).form == Form(Kind.BINARY)


def test_the_size_of_what_was_packed_is_told():
    assert look(gzip.compress(b'{"a": 1}' + b" " * 5000), NOW).unpacked == 5008


def test_leaves_are_named_as_channels_are():
    found, lost = leaves({"a": {"b": [1, {"c": "x"}]}, "d.e": 2, "f": None, "g": 1e999, "": 3})
    assert found == {"a.b.0": 1, "a.b.1.c": "x", "d.e": 2, "": 3}
    assert lost == {"d.e", ""}
    assert leaves({b"k": 1, 2: {"x": datetime(2026, 1, 2, tzinfo=UTC)}}) == (
        {"2.x": "2026-01-02T00:00:00+00:00"},
        frozenset(),
    )
    assert leaves(5.0) == ({"value": 5.0}, frozenset())
    assert len(leaves(["x"] * 5000)[0]) == MAX_LEAVES


@settings(max_examples=50)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode), st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(), lambda inner: st.lists(inner) |
    st.dictionaries(st.text(), inner), max_leaves=20).map(lambda one: json.dumps(one).encode())))  # fmt: skip
def test_whatever_comes_is_something(payload):
    assert look(payload, NOW).form.kind in Kind
