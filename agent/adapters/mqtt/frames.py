"""Cuts the byte stream from the broker into packets and turns PUBLISH packets into messages.

Everything else is left for paho. Done here because paho needs three reads and some thirty objects for each
message; measured numbers stand in docs/mqtt.md. MQTT 5 section 3.3 and MQTT 3.1.1 section 3.3.
"""

from __future__ import annotations

from time import monotonic, time
from typing import Final

from agent.ports import InboundMessage

PUBLISH: Final = 3
# The longest that can stand before a payload (without properties): length bytes, topic, message id.
LONGEST_HEAD: Final = 5 + 2 + 65535 + 2
MAX_CACHED_TOPICS: Final = 20_000
MAX_CACHED_BYTES: Final = 2_000_000  # of topics, which may have 65,535 each


class MalformedError(Exception):
    """The broker sent bytes that are not MQTT."""


class TopicFilter:
    """Decodes topics once each, and says which of them are ours and, unless they are among `apart`, ignored."""

    def __init__(self, own_roots: tuple[str, ...], apart: frozenset[str]) -> None:
        self._own_roots = own_roots
        self._apart = apart
        self.decoded: dict[bytes, str | None] = {}
        self._cached_bytes = 0

    def decode(self, raw: bytes) -> str | None:
        """Return the topic, or None if it is our own or not UTF-8."""
        self._cached_bytes += len(raw)
        if len(self.decoded) >= MAX_CACHED_TOPICS or self._cached_bytes > MAX_CACHED_BYTES:
            self.decoded.clear()
            self._cached_bytes = len(raw)
        try:
            topic: str | None = raw.decode()
        except UnicodeDecodeError:
            topic = None
        if topic is not None and topic.startswith(self._own_roots) and topic not in self._apart:
            topic = None
        self.decoded[raw] = topic
        return topic


class FrameReader:
    """Feed it what arrives; take `messages`, `control` (bytes for paho) and the rest away.

    `ignored_ids` are QoS 1 messages that nobody will process and that must be acknowledged at once;
    `oversized` holds topic and size (bytes) of messages above `max_size`. `commands` holds messages on the
    command topic with their raw MQTT 5 properties, and how many of `messages` came before each; `notices` those on the
    topics `noticed`, which need no acknowledgement any more. `publications` counts all that came, `owed` those of
    QoS 1 that wait for an acknowledgement from elsewhere, which is to be subtracted.
    """

    def __init__(
        self,
        *,
        own_roots: tuple[str, ...],
        command: str | None,
        noticed: frozenset[str],
        mqtt5: bool,
        connection: int,
        max_size: int,
    ) -> None:
        self._apart = noticed if command is None else noticed | {command}
        self._topics = TopicFilter(own_roots, self._apart)
        self._mqtt5 = mqtt5
        self._connection = connection
        self._max_size = max_size
        self._command = command
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 2
        self._skip = 0
        self.control = bytearray()
        self.messages: list[InboundMessage] = []
        self.commands: list[tuple[int, InboundMessage, bytes]] = []
        self.notices: list[InboundMessage] = []
        self.ignored_ids: list[int] = []
        self.oversized: list[tuple[str, int]] = []
        self.publications = 0
        self.owed = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream. Raises MalformedError; the connection is useless then."""
        if self._skip:
            dropped = min(self._skip, len(data))
            self._skip -= dropped
            data = data[dropped:]
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._parts)
            self._parts.clear()
        try:
            rest = self._cut(data)
        except IndexError:
            raise MalformedError("a packet ends too early") from None
        if rest < len(data):
            self._parts.append(data[rest:] if rest else data)
            self._have = len(data) - rest

    def _cut(self, data: bytes) -> int:
        """Handle every complete packet and return where the incomplete one begins."""
        start, end = 0, len(data)
        while end - start >= 2:  # noqa: PLR2004 - the shortest packet
            length = data[start + 1]
            body = start + 2
            if length & 0x80:
                length &= 0x7F
                shift = 7
                while True:
                    if body == end:
                        self._need = body - start + 1
                        return start
                    byte = data[body]
                    body += 1
                    length |= (byte & 0x7F) << shift
                    if byte < 0x80:  # noqa: PLR2004 - the continuation bit
                        break
                    shift += 7
                    if shift > 21:  # noqa: PLR2004 - four bytes at most
                        raise MalformedError("a packet's length is malformed")
            stop = body + length
            if data[start] >> 4 != PUBLISH:
                if stop > end:
                    self._need = stop - start
                    return start
                self.control += data[start:stop]
            elif length > self._max_size:
                self._need = min(stop - start, LONGEST_HEAD)
                if end - start < self._need:
                    return start
                self._drop(data[start], data, body, length)
                if stop > end:
                    self._skip = stop - end
                    return end
            else:
                if stop > end:
                    self._need = stop - start
                    return start
                self._publish(data, start, body, stop)
            start = stop
        self._need = 2
        return start

    def _publish(self, data: bytes, start: int, at: int, stop: int) -> None:
        head = data[start]
        qos = (head >> 1) & 3
        if qos > 1:
            # Never subscribed to: paho completes the handshake, so that the broker is rid of it.
            self.control += data[start:stop]
            return
        after = at + 2 + (data[at] << 8 | data[at + 1])
        raw = data[at + 2 : after]
        try:
            topic = self._topics.decoded[raw]
        except KeyError:
            topic = self._topics.decode(raw)
        message_id = 0
        if qos:
            message_id = data[after] << 8 | data[after + 1]
            after += 2
        properties = after
        if self._mqtt5:
            if data[after]:
                size, after = _varint(data, after)
                after += size
            else:
                after += 1
        if after > stop:
            raise MalformedError("a publication is shorter than its own header")
        self.publications += 1
        if topic is None:
            if qos:
                self.ignored_ids.append(message_id)
            return
        message = InboundMessage(
            topic,
            data[after:stop],
            time(),
            monotonic(),
            qos,
            bool(head & 1),
            message_id,
            self._connection,
            again=bool(head & 8),
        )
        if topic not in self._apart:
            self.messages.append(message)
        elif topic == self._command:
            self.commands.append((len(self.messages), message, data[properties:after]))
        else:
            self.notices.append(message)
            if qos:
                self.ignored_ids.append(message_id)
            return
        if qos:
            self.owed += 1

    def _drop(self, head: int, data: bytes, at: int, length: int) -> None:
        self.publications += 1
        after = at + 2 + (data[at] << 8 | data[at + 1])
        if head & 6:
            self.ignored_ids.append(data[after] << 8 | data[after + 1])
        self.oversized.append((data[at + 2 : after].decode(errors="replace"), length))


def packed_publication(topic: str, payload: bytes, *, retain: bool, mqtt5: bool) -> bytes:
    """Return a PUBLISH packet of QoS 0, without properties."""
    name = topic.encode()
    body = len(name).to_bytes(2, "big") + name + (b"\0" if mqtt5 else b"") + payload
    length, left = bytearray(), len(body)
    while True:
        left, low = divmod(left, 128)
        length.append(low | 128 if left else low)
        if not left:
            return bytes((PUBLISH << 4 | retain,)) + length + body


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit
            return value, at
        shift += 7
        if shift > 21:  # noqa: PLR2004 - four bytes at most
            raise MalformedError("the length of a publication's properties is malformed")
