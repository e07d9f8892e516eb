from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import read_configuration
from agent.discovery import estimate
from agent.discovery.estimate import Costs, Estimate
from agent.discovery.heard import Heard
from agent.discovery.proposal import propose
from agent.discovery.rendering import render, scalar, shown, span
from agent.ports import InboundMessage

NOW = 1_790_000_000.0
COSTS = Costs(base_bytes=70_000_000, channel_bytes=160_000, picture_bytes=14_000_000, rows=633, pictures=300)


def rendered(messages, broker=None):
    heard = Heard()
    heard.take(InboundMessage(topic, payload, NOW + n, 0.0) for n, (topic, payload) in enumerate(messages))
    proposal = propose(heard, 60.0, own_prefix="redshank", pictures=True)
    return proposal, render(proposal, heard, broker=broker or {"url": "mqtt://host"}, listened_s=60.0, costs=COSTS)


names = st.text(st.characters(exclude_characters="/+#\0", exclude_categories=["Cs"]), max_size=12)


keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=50)
@given(st.lists(names, min_size=1, max_size=3), st.dictionaries(keys, st.integers(-9, 9), min_size=1, max_size=3))
def test_no_topic_and_no_field_breaks_the_file(levels, fields):
    topic = "/".join(levels)
    proposal, text = rendered([(topic, json.dumps(fields).encode())] if topic else [("a", b"1")])
    if proposal.entries:
        (stream,) = read_configuration("x", text.encode()).streams
        assert stream.topic == (topic or "a")
        assert all("\x85" not in line and "\u2028" not in line for line in text.split("\n"))


@settings(max_examples=50)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_scalar_is_read_as_the_text_that_it_was(text):
    stream = f"streams: [{{name: a, topic: b, channels: [{scalar(text)}]}}]"
    assert read_configuration("x", stream.encode()).streams[0].channels == (text,)


def test_texts_of_payloads_are_never_shown():
    _, text = rendered([("a/b", b'{"pin": "secret-word", "x": 1}'), ("a/c", b"secret-word"), ("a/b", b'{"x": 2}')])
    assert "secret-word" not in text
    assert "Not watched, text: pin." in text


def test_the_broker_section_is_what_was_asked_for_with_a_place_for_the_password():
    broker = {
        "url": "mqtts://host:8883",
        "protocol": "3.1.1",
        "username": "me",
        "ca_file": "/ca, #1",
        "password_file": None,
    }
    _, text = rendered([("a/b", b"1")], broker)
    made = read_configuration("x", text.encode()).broker
    assert (made.url, made.protocol, made.username, made.ca_file) == ("mqtts://host:8883", "3.1.1", "me", "/ca, #1")
    assert made.password_file is None
    assert "  # password_file: /etc/redshank/password" in text


def test_what_was_not_looked_at_is_said():
    heard = Heard(Heard().limits.__class__(topics=1, messages=1, fields=1))
    heard.take(InboundMessage(topic, b'{"x": 1, "y": 2}', NOW, 0.0) for topic in ("a", "a", "b"))
    heard.too_large("big")
    proposal = propose(heard, 60.0, own_prefix="redshank", pictures=True)
    text = render(proposal, heard, broker={"url": "mqtt://host"}, listened_s=60.0, costs=COSTS)
    for said in (
        "1 message came on further topics",
        "first 1 payloads",
        "Not all fields",
        "max_message_size (1 topic): big",
    ):
        assert said in text


def test_long_lists_and_comments_are_wrapped():
    fields = {f"a_rather_long_name_of_a_field_{n}": n for n in range(30)}
    _, text = rendered([("a/b", json.dumps(fields).encode())])
    assert len(read_configuration("x", text.encode()).streams[0].channels) == 30
    assert max(map(len, text.splitlines())) <= 118


def test_large_proposals_raise_the_limits_that_they_need():
    whole = Estimate(streams=2000, channels=4000, bytes=700_000_000, rate_per_s=5.0, learning_s=None)
    assert (estimate.memory_limit_bytes(whole), estimate.max_streams(whole)) == (896_000_000, 2500)
    assert estimate.alarms_per_day(whole) == 72
    _, text = rendered([(f"p/{n}/t", json.dumps(dict.fromkeys("abcdef", n)).encode()) for n in range(400)])
    agent = read_configuration("x", text.encode()).agent
    assert agent.memory_limit_bytes == 576_000_000
    _, text = rendered([("a/b", b'{"x": 1, "y": "' + b"z" * 700_000 + b'"}')])
    assert read_configuration("x", text.encode()).agent.max_payload_bytes == 2_000_000


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.01, "10 ms"), (1.0, "1 s"), (90.0, "1.5 min"), (6330.0, "1.8 h"), (8e5, "9.3 d"), (0, "less than 1 ms")],
)
def test_times_are_in_words(seconds, words):
    assert span(seconds) == words


def test_names_in_comments_are_one_short_line():
    assert shown("a\nb\u2028c\x1b") == "a\\nb\\u2028c\\x1b"
    assert len(shown("x" * 1000)) == 103
