from __future__ import annotations

import pytest

from agent.discovery.grouping import group_topics
from agent.discovery.joining import joined_level
from tests.discovery.test_grouping import members


@pytest.mark.parametrize(
    ("topics", "level"),
    [
        (["p/l1/temp", "p/l1/flow", "p/l2/temp", "p/l2/flow"], 2),
        (["p/l1/x/temp", "p/l1/x/flow", "p/l2/x/temp", "p/l2/x/flow"], 3),
        (["n1/sensor/a/state", "n1/sensor/b/state", "n2/sensor/a/state", "n2/sensor/c/state"], 2),
        (["p/l1/temp", "p/l2/temp", "p/l3/temp"], None),  # one value each
        (["p/l1/temp", "p/l1/flow"], 2),
        (["p/t1", "p/flow"], None),  # too short for a device with channels
        (["p/l1/t1", "p/l1/t2", "p/l1/t3"], None),  # things that are alike
        (["ha/sensor/a/state", "ha/sensor/b/state"], None),  # one device, and what is below is no channel
        (["a/b/c"], None),
        ([f"p/l{n}/v{m}" for n in range(2) for m in range(70)], None),
    ],
)
def test_values_of_a_device_are_joined_where_others_have_the_same(topics, level):
    (group,) = group_topics(members(topics))
    assert joined_level(group) == level
