from __future__ import annotations

import pytest

from agent.adapters.mqtt import frames
from agent.adapters.mqtt.frames import FrameReader, MalformedError
from agent.adapters.mqtt.paho_client import command_of
from tests.fuzz.messages import COMMAND, packet, varint


def reader(max_size=1 << 24):
    return FrameReader(
        own_roots=("redshank/pi/",), command=COMMAND, noticed=frozenset(), mqtt5=True, connection=1, max_size=max_size
    )


def test_a_length_of_properties_without_an_end_is_malformed_at_once():
    body = b"\0\1a" + b"\xff" * 5_000_000
    with pytest.raises(MalformedError, match="properties"):
        reader().feed(b"\x30" + varint(len(body)) + body)


def test_what_is_remembered_of_topics_is_bounded_in_bytes():
    cutter = reader()
    for number in range(200):
        cutter.feed(packet(f"{number:05}".encode() * 13_107, b"x"))
    assert len(cutter.messages) == 200
    assert sum(map(len, cutter._topics.decoded)) <= frames.MAX_CACHED_BYTES


@pytest.mark.parametrize(
    "properties",
    [
        b"\x08\0\1a\x08\0\1b",  # two response topics
        b"\xff\xff\xff\x7f",  # no such property
        b"\x08\0\7ops",  # cut off
        b"\x08\0\2\xed\xa0",  # not UTF-8
        b"\x01\7",  # a flag of seven
    ],
)
def test_a_command_with_malformed_properties_is_one_without(properties):
    cutter = reader()
    cutter.feed(packet(COMMAND.encode(), b"{}", properties=properties))
    ((_, message, raw),) = cutter.commands
    command = command_of(message, raw)
    assert (command.message.payload, command.response_topic, command.correlation_data) == (b"{}", None, None)
