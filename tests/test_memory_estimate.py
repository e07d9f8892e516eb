"""What `redshank check` says of memory is what the limit is kept with."""

from __future__ import annotations

import pytest

from agent.app import load_encoders, with_defaults
from agent.config import load_configuration
from agent.memory_estimate import doubts, estimate, told
from agent.room import BASE_BYTES, Room
from tests.core.pictures import learnt, make

ENTRIES = """
  - {name: pump, topic: plant/pump, channels: [temp, flow]}
  - {name: any, topic: "site/{device}/data"}
  - {name: joined, topic: "rack/{channel}"}
  - {name: spark, topic: "spBv1.0/plant/#", format: sparkplug}
  - {name: cam, topic: "cam/+", kind: image, tiles: [2, 1]}
"""


def read(tmp_path, limit="256MB", entries=ENTRIES):
    path = tmp_path / "redshank.yaml"
    path.write_text(f"agent: {{id: pi, memory_limit: {limit}}}\nstreams:{entries}")
    configuration = with_defaults(load_configuration(path))
    return configuration, load_encoders(configuration)


def test_it_is_what_the_room_for_streams_is_reckoned_with(tmp_path):
    configuration, encoders = read(tmp_path)
    found = estimate(configuration, encoders)
    nothing = Room({})
    assert found.left_bytes == nothing.left(configuration.agent) - sum(one.stream_bytes for one in found.entries)
    assert [(one.name, one.many, one.bare) for one in found.entries] == [
        ("pump", False, False),
        ("any", True, True),
        ("joined", False, True),
        ("spark", True, True),
        ("cam", True, False),
    ]
    pump, alone = found.entries[:2]
    assert 1.8 * alone.stream_bytes < pump.stream_bytes < 2 * alone.stream_bytes
    assert doubts(found) == []


def test_a_stream_of_pictures_weighs_at_its_first_one_what_it_will_have_learnt():
    before, after = make().memory.bytes, learnt()[0].memory.bytes
    assert before == after


def test_it_is_told_in_words(tmp_path):
    found = estimate(*read(tmp_path))
    total, *each = told(found)
    assert f"about {found.needed_bytes / 1e6:.0f} MB of agent.memory_limit's 256: {BASE_BYTES / 1e6:.0f} for" in total
    assert total.endswith("for one stream of each entry")
    assert [line.split(":")[0].strip() for line in each] == ["any", "spark", "cam"]
    assert "for each stream with one channel; room for" in each[0]
    (cam,) = (one for one in found.entries if one.name == "cam")
    assert each[2].endswith(f"for each stream; room for {found.left_bytes // cam.stream_bytes} more")


@pytest.mark.parametrize("limit", ["80MB", "100MB"])
def test_a_limit_that_is_too_low_is_a_doubt(tmp_path, limit):
    found = estimate(*read(tmp_path, limit))
    (doubt,) = doubts(found)
    assert doubt.startswith(f"agent.memory_limit {limit[:-2]} MB: one stream of each entry takes about ")
    assert told(found)[-1].endswith("room for 0 more")


def test_one_entry_is_one_stream(tmp_path):
    (line,) = told(estimate(*read(tmp_path, entries="\n  - {name: pump, topic: plant/pump, channels: [temp]}\n")))
    assert line.endswith("for one stream")
