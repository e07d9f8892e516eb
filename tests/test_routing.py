from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import load_configuration
from agent.routing import Router, pattern_of, stream_name

STREAMS = """
agent: {max_streams: 2}
streams:
  - {name: first, topic: plant/a/+}
  - {name: plant, topic: plant/#}
  - {name: rooms, topic: "home/+/{device}/{channel}", format: value}
  - {name: line, topic: "spBv1.0/g/+/n/#", format: sparkplug}
  - {name: others, topic: "spBv1.0/+/+/+/d", format: sparkplug}
"""


@pytest.fixture
def router(tmp_path):
    (tmp_path / "redshank.yaml").write_text(STREAMS)
    return Router(load_configuration(tmp_path / "redshank.yaml"))


@pytest.mark.parametrize(
    ("topic", "name", "own", "channel"),
    [
        ("plant/a/x", "first/x", "plant/a/x", None),
        ("plant/a", "plant/a", "plant/a", None),
        ("home/up/hall/temp", "rooms/up/hall", "home/up/hall/{channel}", "temp"),
        ("spBv1.0/g/NBIRTH/n", "line", "spBv1.0/g/+/n", None),
        ("spBv1.0/g/DDATA/n/d", "line/d", "spBv1.0/g/+/n/d", None),
        ("spBv1.0/h/DDATA/n/d", "others/h/n", "spBv1.0/h/+/n/d", None),
    ],
)
def test_a_stream_s_own_topic_leads_where_its_topics_lead(router, topic, name, own, channel):
    for _ in range(2):
        found = router.find(topic)
        assert (found.name, found.topic, found.channel) == (name, own, channel)
    assert router.find(own).name == name
    assert router.find(own).topic == own


@pytest.mark.parametrize("topic", ["elsewhere", "spBv1.0/STATE/n", "spBv1.0/g/NCMD/n", "spBv1.0/g/DCMD/n/d"])
def test_what_belongs_nowhere(router, topic):
    assert router.find(topic) is router.find(topic) is None


def test_what_is_remembered_is_bounded(router):
    for index in range(1000):
        assert router.find(f"plant/x{index}").name == f"plant/x{index}"
        assert router.find(f"elsewhere/{index}") is None
    assert (len(router._routes), len(router._elsewhere)) == (32, 4)


def test_gaps_are_told_only_where_all_of_a_node_is_seen(router):
    assert router.sees_all("spBv1.0/g/DDATA/n/x")
    assert not router.sees_all("spBv1.0/h/DDATA/n/d")


@pytest.mark.parametrize("number", range(5))
def test_examples_are_of_streams(router, number):
    entry = router._entries[number][1]
    example = pattern_of(entry).example
    assert router.find(example).topic == example


@given(st.lists(st.text("a/#+%", max_size=4), max_size=4), st.lists(st.text("a/#+%", max_size=4), max_size=4))
def test_names_of_streams_are_injective(first, second):
    assert (stream_name("x", first) == stream_name("x", second)) == (first == second)
