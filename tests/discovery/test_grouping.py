from __future__ import annotations

import pytest

from agent.discovery.grouping import Member, group_topics
from agent.discovery.separation import separate


def members(topics, key="value"):
    """Return members of topics, or of topics with the fields that each carries."""
    with_fields = topics if isinstance(topics, dict) else dict.fromkeys(topics, "value")
    return [Member(tuple(one.split("/")), key, frozenset(fields.split())) for one, fields in with_fields.items()]


def patterns(made, others=None):
    left = {tuple(one.split("/")): harmless for one, harmless in (others or {}).items()}
    groups, taken = separate(group_topics(made), left)
    return ["/".join(group.levels) for group in groups], taken


@pytest.mark.parametrize(
    ("topics", "expected"),
    [
        (["a/b"], ["a/b"]),
        (["temperature", "humidity"], ["humidity", "temperature"]),
        (["plant/l1/temp", "plant/l2/temp"], ["plant/+/temp"]),
        (["plant/l1/temp", "plant/l1/flow", "plant/l2/temp"], ["plant/+/+"]),
        (["a/b", "c/d"], ["a/b", "c/d"]),
        (["pump1/telemetry", "pump2/telemetry", "pump3/telemetry"], ["+/telemetry"]),
        (["plant/l1/temp", "plant/l2/temp", "home/hall/temp"], ["home/hall/temp", "plant/+/temp"]),
        (["a/x", "b/x/y"], ["a/x", "b/x/y"]),
        (["n1/sensor/a/state", "n1/sensor/b/state", "n2/sensor/a/state"], ["+/sensor/+/state"]),
        ({"tele/x/SENSOR": "t h", "tele/y/SENSOR": "p e", "tele/x/STATE": "r", "tele/y/STATE": "r"},
         ["tele/+/SENSOR", "tele/+/STATE"]),
        ({"z/lamp": "bri lq", "z/plug": "p e lq", "z/th": "t h lq"}, ["z/+"]),
        ({"x/pump": "a b", "x/tank": "c d"}, ["x/pump", "x/tank"]),
    ],
)  # fmt: skip
def test_levels_whose_tokens_are_interchangeable_become_wildcards(topics, expected):
    assert patterns(members(topics))[0] == expected


def test_what_is_read_in_another_way_is_another_group():
    some, others = members(["a/x/t", "a/y/t"]), members(["a/x/s", "a/y/s"], key="csv")
    assert patterns(some + others)[0] == ["a/+/s", "a/+/t"]


def test_a_pattern_takes_nothing_that_is_left_out():
    topics = [f"z/{room}/{what}" for room in "abc" for what in ("lamp", "plug")]
    found, taken = patterns(members(topics), {"z/a/set": False, "z/b/set": False, "z/bridge/x/y": False})
    assert (found, taken) == (["z/+/lamp", "z/+/plug"], {})


def test_where_no_level_tells_them_apart_one_is_split_that_leaves_the_fewest():
    found, _ = patterns(members(["a/x/1", "a/y/2", "a/x/2"]), {"a/y/1": False})
    assert found == ["a/y/2", "a/x/+"]


def test_a_few_topics_without_numbers_are_suffered_among_many_with_them():
    topics = [f"ha/sensor/room{n}/state" for n in range(9)]
    found, taken = patterns(members(topics), {"ha/sensor/washer/state": True})
    assert found == ["ha/sensor/+/state"]
    assert taken == {0: [("ha", "sensor", "washer", "state")]}
    named, _ = patterns(members(topics), {"ha/sensor/washer/state": False})
    assert named == sorted(topics)


def test_the_more_special_pattern_comes_first():
    special, general = members(["a/x/energy", "a/y/energy"], "counter"), members(["a/x/t", "a/y/t", "a/x/p", "a/y/p"])
    found, taken = patterns(general + special)
    assert (found, taken) == (["a/+/energy", "a/+/+"], {})


def test_every_topic_is_in_exactly_one_group():
    topics = [f"{a}/{b}/{c}" for a in "ab" for b in "cdef" for c in "ghijk" if (ord(a) * ord(b) + ord(c)) % 3]
    groups, _ = separate(group_topics(members(topics)), {})
    assert sorted("/".join(one.levels) for group in groups for one in group.members) == sorted(topics)
