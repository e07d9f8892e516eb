from __future__ import annotations

import pytest

from agent.discovery.entry import shortened
from agent.discovery.forms import Form, Kind
from agent.discovery.heard import Heard, Limits
from agent.discovery.proposal import propose
from agent.ports import InboundMessage
from tests.discovery.test_shapes import reasons

NOW = 1_790_000_000.0


def heard(came, **limits):
    found = Heard(Limits(**limits))
    for number, (topic, payload, *retained) in enumerate(came):
        found.take([InboundMessage(topic, payload, NOW + number, 0.0, retained=bool(retained))])
    return found


def test_topics_messages_and_fields_are_bounded_and_what_is_beyond_is_counted():
    many = [(f"a/{n}", b'{"x": 1, "y": 2}') for n in range(50)] * 2
    found = heard(many, topics=10, fields=6)
    assert (len(found.topics), found.messages, found.beyond) == (10, 100, 80)
    assert (found.fields, found.fields_beyond) == (6, 28)
    assert (
        "not looked into: too many fields were found before, or none that can be named"
        in reasons(proposal(found)).values()
    )
    found = heard([("a", b"1"), ("a", b"2"), ("a", b"x")], messages=2)
    assert (found.topics["a"].messages, found.not_looked) == (3, 1)
    assert found.topics["a"].form == Form(Kind.VALUE)
    assert heard([("t" * 1000, b"1")]).beyond == 1


def proposal(found, **options):
    return propose(found, 60.0, own_prefix="redshank", pictures=True, **options)


@pytest.mark.parametrize(
    ("payloads", "kind"),
    [
        ([b"1", b"2"], Kind.VALUE),
        ([b"1", b"unavailable"], Kind.VALUE),
        ([b"1", b"true"], Kind.JSON),
        ([b"unknown"], Kind.NO_VALUE),
        ([b"+1", b"true"], None),  # no JSON
        ([b"1", b"on"], None),
        ([b"1;2", b"1;2;3"], None),
        ([b'{"a": 1}', b"oops"], None),
    ],
)
def test_a_format_is_what_reads_all_payloads(payloads, kind):
    form = heard([("a", one) for one in payloads]).topics["a"].form
    assert (form and form.kind) == kind


def test_mixed_payloads_are_left_out_with_what_they_were():
    left = reasons(
        proposal(heard([("a/b", b"1"), ("a/b", b"on"), ("a/b", b"2"), *((("a/c", b"%d" % n)) for n in range(3))]))
    )
    assert left == {"a/b": "payloads of more than one kind (plain numbers 2, text 1 times)"}


def test_what_the_broker_had_kept_is_no_message_and_no_reason_to_avoid_a_pattern():
    found = heard([("p/old/t", b"1", True), *((f"p/{n}/t", b"2") for n in "abab")])
    made = proposal(found)
    assert [one.pattern for one in made.entries] == ["p/+/t"]
    assert [one.topic for one in made.entries[0].topics] == ["p/a/t", "p/b/t"]
    assert reasons(made)["p/old/t"].startswith("kept by the broker")
    assert (found.messages, found.retained) == (4, 1)


def test_our_own_topics_are_left_out():
    made = proposal(heard([("redshank/pi/pump/state", b'{"score": 1.5}'), ("redshanks/x", b"1")]))
    assert reasons(made) == {"redshank/pi/pump/state": "published by Redshank itself"}
    assert [one.pattern for one in made.entries] == ["redshanks/x"]


def test_a_key_with_a_dot_in_it_is_watched_although_it_cannot_be_named():
    (entry,) = proposal(heard([("a/b", b'{"x.y": %d, "id": 4}' % n) for n in (3, 5, 4)])).entries
    assert (entry.channels, entry.ignored) == ([], ["id"])


def test_entries_are_bounded_those_with_most_messages_first():
    words = [f"r{n}/s{n}" for n in range(120)]
    made = proposal(heard([(word, b"1") for word in words] + [("r119/s119", b"2")] * 3))
    assert len(made.entries) == 100
    assert "r119/s119" in {one.pattern for one in made.entries}
    assert set(reasons(made).values()) == {"too many to name one by one: more than 100 entries"}


def test_ignored_paths_are_as_short_as_what_is_watched_allows():
    assert shortened(["u.a", "u.b.c", "v.a", "w"], ["v.b", "t"]) == ["u", "v.a", "w"]


def test_names_are_unique():
    topics = [("p/a b/t", b"1"), ("p/a-b/t", b'{"x": 1}'), ("p/a+", b"2"), ("//", b"3")]
    names = [one.name for one in proposal(heard(topics)).entries]
    assert sorted(names) == sorted({*names})
