"""MQTT packets of rubbish, and of what is nearly none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.adapters.mqtt import Topics
from agent.adapters.mqtt.frames import FrameReader

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND: Final = "redshank/pi/command"
TOPICS: Final = Topics("redshank", "pi")
NAMES: Final = [
    b"timed/a",
    b"hold/a",
    b"counter/a/b",
    b"rows//",
    b"$SYS/broker",
    b"value",
    b"rest/x/y",
    b"timed/\x01\x7f%+",
    COMMAND.encode(),
    b"redshank/pi/status",
    b"spBv1.0/g/NBIRTH/n",
    b"",
    b"spBv1.0/g/DDATA/n/d",
    b"timed/" + b"x" * 65_529,
    b"\xff\xfe",
    b"a\x00b",
]


def packets(data: bytes) -> Iterator[bytes]:
    """Yield PUBLISH packets of MQTT 5, made of records: topic, flags, size in two bytes, payload."""
    place = 0
    while place + 4 <= len(data):
        choice, flags, size = data[place], data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        payload = data[place + 4 : place + 4 + size]
        topic = NAMES[choice % 16]
        if choice & 16:  # a level of the sender's own
            topic, payload = (topic + payload[:3])[:65_535], payload[3:]
        yield packet(topic, payload, qos=flags & 1, retained=bool(flags & 2))
        place += 4 + size


def packet(topic: bytes, payload: bytes, *, qos: int = 0, retained: bool = False, properties: bytes = b"") -> bytes:
    """Return a PUBLISH packet (MQTT 5, section 3.3)."""
    body = len(topic).to_bytes(2, "big") + topic + (b"\0\1" if qos else b"")
    body += varint(len(properties)) + properties + payload
    return bytes([0x30 | qos << 1 | retained]) + varint(len(body)) + body


def varint(number: int) -> bytes:
    """Return a variable byte integer (MQTT 5, section 1.5.5)."""
    made = bytearray()
    while True:
        number, digit = divmod(number, 128)
        made.append(digit | (0x80 if number else 0))
        if not number:
            return bytes(made)


def reader(*, mqtt5: bool = True, max_size: int = 1 << 20) -> FrameReader:
    """Return what cuts the broker's bytes into messages."""
    roots = (TOPICS.root,)
    return FrameReader(
        own_roots=roots, command=COMMAND, noticed=frozenset({"ha/status"}), mqtt5=mqtt5, connection=1, max_size=max_size
    )
