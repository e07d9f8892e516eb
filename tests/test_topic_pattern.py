from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.topic_pattern import TopicPattern, pattern_problem, valid_filter


def wildcard_parts(topic_filter, topic):
    """Return what the wildcards of a filter stand for in a topic, None if it does not match."""
    found = TopicPattern(topic_filter).match(topic)
    return None if found is None else list(found.parts)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "parts"),
    [
        ("a/+/c", "a/b/c", ["b"]),
        ("a/#", "a", []),
        ("a/#", "a/b/c", ["b", "c"]),
        ("#", "$SYS/x", None),
        ("$SYS/#", "$SYS/x", ["x"]),
        ("a/+", "a/b/c", None),
        ("a/+/c", "a/b", None),
        ("a", "b", None),
        ("+/+", "/", ["", ""]),
    ],
)
def test_wildcards_stand_for_parts_of_a_topic(topic_filter, topic, parts):
    assert wildcard_parts(topic_filter, topic) == parts


@pytest.mark.parametrize(
    ("pattern", "topic", "parts", "own", "channel"),
    [
        ("home/{device}/{channel}", "home/hall/temp", ("hall",), "home/hall/{channel}", "temp"),
        ("+/{device}/sensor/{channel}/state", "a/b/sensor/c/state", ("a", "b"), "a/b/sensor/{channel}/state", "c"),
        ("{channel}/{device}", "temp/hall", ("hall",), "{channel}/hall", "temp"),
        ("plc/{channel}", "plc/t1", (), "plc/{channel}", "t1"),
        ("s/{device}/{channel}/#", "s/em/emeter/0/power", ("em",), "s/em/{channel}", "emeter/0/power"),
        ("s/{device}/{channel}/#", "s/em/temp", ("em",), "s/em/{channel}", "temp"),
        ("z/{device}", "z/lamp", ("lamp",), "z/lamp", None),
        ("z/{device}/#", "z/lamp/a/b", ("lamp", "a", "b"), "z/lamp/a/b", None),
    ],
)
def test_placeholders(pattern, topic, parts, own, channel):
    found = TopicPattern(pattern).match(topic)
    assert (found.parts, found.topic, found.channel) == (parts, own, channel)
    again = TopicPattern(pattern).match(own)
    assert (again.parts, again.topic) == (parts, own)


@pytest.mark.parametrize("pattern", ["a/{device}/{channel}", "a/{device}/x", "a/{device}/{channel}/#"])
@pytest.mark.parametrize("topic", ["a/b", "b/b/x", "$a/b/x"])
def test_other_topics_do_not_match(pattern, topic):
    assert TopicPattern(pattern).match(topic) is None


def test_levels_aside_tell_no_streams_apart():
    for text in ("v/#", "v/+/+/+/#"):
        pattern = TopicPattern(text, aside=(2,))
        assert pattern.match("v/g/DATA/n/d").parts == ("g", "n", "d")
        assert pattern.match("v/g/DATA/n/d").topic == pattern.match("v/g/BIRTH/n/d").topic == "v/g/+/n/d"


@pytest.mark.parametrize(
    ("pattern", "subscribed", "example"),
    [
        ("home/{device}/{channel}", "home/+/+", "home/replay/{channel}"),
        ("s/{device}/{channel}/#", "s/+/+/#", "s/replay/{channel}"),
        ("a/+/#", "a/+/#", "a/replay/replay"),
        ("a/b", "a/b", "a/b"),
    ],
)
def test_what_is_subscribed_to_and_an_example(pattern, subscribed, example):
    made = TopicPattern(pattern)
    assert (made.filter, made.example) == (subscribed, example)
    assert made.match(example).topic == example


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("a/{device}/{channel}", None),
        ("a/{device}/{device}", "{device} at most once"),
        ("a/x{device}", "{device} or {channel}, alone in a level"),
        ("a/{room}", "{device} or {channel}, alone in a level"),
        ("a/{channel}/b/#", "# only next to {channel}"),
    ],
)
def test_problems(pattern, problem):
    assert pattern_problem(pattern, may_join=True) == problem


def test_pictures_are_not_joined():
    assert pattern_problem("a/{device}", may_join=False) is None
    assert pattern_problem("a/{channel}", may_join=False) == "no {channel}: only readings are joined"


LEVELS = st.lists(st.text(alphabet="ab/+", max_size=3), min_size=1, max_size=4)


@settings(max_examples=60)
@given(
    levels=st.lists(st.sampled_from(["a", "b", "+", "{device}", "{channel}"]), min_size=1, max_size=5),
    hashed=st.booleans(),
    topic=LEVELS,
)
def test_a_pattern_matches_what_its_filter_matches(levels, hashed, topic):
    pattern = TopicPattern("/".join(levels + ["#"] * hashed))
    assert valid_filter(pattern.filter)
    name = "/".join(topic)
    assert (pattern.match(name) is None) == (wildcard_parts(pattern.filter, name) is None)


def test_a_shared_filter_matches_as_without_its_group():
    pattern = TopicPattern("$share/agents/home/{device}/{channel}")
    assert pattern.filter == "$share/agents/home/+/+"
    found = pattern.match("home/hall/temp")
    assert (found.parts, found.topic, found.channel) == (("hall",), "home/hall/{channel}", "temp")
    assert wildcard_parts("$share/agents/+/a", "$SYS/a") is None
    assert wildcard_parts("$share/agents/$SYS/+", "$SYS/a") == ["a"]
    assert TopicPattern("$share/agents").match("agents") is None


@pytest.mark.parametrize(
    ("text", "aside", "many"),
    [
        ("plant/pump", (), False),
        ("plant/+", (), True),
        ("plant/{device}/x", (), True),
        ("plant/#", (), True),
        ("plant/{channel}", (), False),
        ("plant/{channel}/#", (), False),
        ("+/{channel}/#", (), True),
        ("spBv1.0/plant/+/node", (2,), False),
        ("spBv1.0/plant/#", (2,), True),
    ],
)
def test_wildcards_that_tell_streams_apart_make_many(text, aside, many):
    assert TopicPattern(text, aside).makes_many is many
