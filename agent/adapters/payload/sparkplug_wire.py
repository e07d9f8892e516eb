"""Sparkplug B's payload off the wire: what the agent needs of the protocol buffer, and nothing else.

The schema is Eclipse Tahu's sparkplug_b.proto; the encoding is that of protobuf.dev/programming-guides/encoding.
Templates, data sets, texts and metadata are passed over without being taken apart.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final, TypeAlias

import msgspec

from agent.adapters.payload.compression import unpacked
from agent.adapters.payload.rejection import PayloadRejected, RejectReason
from agent.adapters.payload.tree import MAX_ELEMENTS

MAX_METRICS: Final = 10_000  # of one message
_COMPRESSED: Final = b"SPBV1.0_COMPRESSED"
_ANY_HEADER: Final = 32 + zlib.MAX_WBITS  # zlib's or gzip's
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WORD: Final = (1 << 64) - 1
_HALF: Final = (1 << 32) - 1
_MAX_VARINT: Final = 10  # bytes
_MAX_FIELD: Final = (1 << 29) - 1
_QUALITY: Final = b"Quality"

Span: TypeAlias = tuple[int, int]


class Metric(msgspec.Struct):
    """One metric. `value` is as it was sent: integers without their sign, which only the datatype tells.

    `number` is the value's field in the schema, 0 where it has none, or none that could be a number. Times in ms.
    """

    name: str | None = None
    alias: int | None = None
    timestamp: int | None = None
    datatype: int | None = None
    is_historical: bool = False
    is_null: bool = False
    quality: int | None = None
    number: int = 0
    value: int | float = 0


class Payload(msgspec.Struct):
    """One message. `timestamp` in ms since the epoch."""

    timestamp: int | None = None
    seq: int | None = None
    metrics: list[Metric] = []


INT_VALUE, LONG_VALUE, FLOAT_VALUE, DOUBLE_VALUE, BOOLEAN_VALUE = 10, 11, 12, 13, 14
_OTHER_VALUES: Final = range(15, 20)  # of a metric: text, bytes, data set, template, extension
_WIRE_TYPES: Final = {
    INT_VALUE: _VARINT,
    LONG_VALUE: _VARINT,
    FLOAT_VALUE: _FIXED32,
    DOUBLE_VALUE: _FIXED64,
    BOOLEAN_VALUE: _VARINT,
}


def read_payload(content: bytes, max_bytes: int) -> Payload:
    """Return a message. Raises PayloadRejected: MALFORMED, TOO_LARGE or TOO_MANY_ELEMENTS.

    One that is compressed (Tahu's `SPBV1.0_COMPRESSED`) is unpacked, to at most `max_bytes`.
    """
    found, body = _Reader(content).payload()
    if body is None:
        return found
    inner = unpacked(body, lambda: zlib.decompressobj(_ANY_HEADER), zlib.error, max_bytes)
    found, body = _Reader(inner).payload()
    if body is not None:
        raise PayloadRejected(RejectReason.MALFORMED)
    return found


class _Reader:
    """Reads one message, of a bounded number of fields."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._left = MAX_ELEMENTS

    def payload(self) -> tuple[Payload, bytes | None]:
        """Return the message, and what is packed in it."""
        found, body, uuid = Payload(metrics=[]), None, b""
        for number, wire, value, span in self._fields((0, len(self._content))):
            if wire == _VARINT and number == 1:
                found.timestamp = value
            elif wire == _VARINT and number == 3:  # noqa: PLR2004  the schema's, as are those below
                found.seq = value
            elif wire == _BYTES and number == 2:  # noqa: PLR2004
                if len(found.metrics) == MAX_METRICS:
                    raise PayloadRejected(RejectReason.TOO_MANY_ELEMENTS)
                found.metrics.append(self._metric(span))
            elif wire == _BYTES and number == 4:  # noqa: PLR2004
                uuid = self._content[slice(*span)]
            elif wire == _BYTES and number == 5:  # noqa: PLR2004
                body = self._content[slice(*span)]
        return found, body if uuid == _COMPRESSED else None

    def _metric(self, whole: Span) -> Metric:
        found = Metric()
        for number, wire, value, span in self._fields(whole):
            if wire == _BYTES and number == 1:
                found.name = self._text(span)
            elif wire == _VARINT and number in {2, 3, 4, 5, 7}:
                self._note(found, number, value)
            elif wire == _BYTES and number == 9:  # noqa: PLR2004
                found.quality = self._quality(span)
            elif number in _OTHER_VALUES and wire == _BYTES:
                found.number = 0
            elif _WIRE_TYPES.get(number) == wire:
                found.number, found.value = number, self._value(number, value)
        return found

    @staticmethod
    def _note(found: Metric, number: int, value: int) -> None:
        if number == 2:  # noqa: PLR2004
            found.alias = value
        elif number == 3:  # noqa: PLR2004
            found.timestamp = value
        elif number == 4:  # noqa: PLR2004
            found.datatype = value & _HALF
        elif number == 5:  # noqa: PLR2004
            found.is_historical = value != 0
        else:
            found.is_null = value != 0

    @staticmethod
    def _value(number: int, bits: int) -> int | float:
        if number == FLOAT_VALUE:
            return float(struct.unpack("<f", bits.to_bytes(4, "little"))[0])
        if number == DOUBLE_VALUE:
            return float(struct.unpack("<d", bits.to_bytes(8, "little"))[0])
        if number == BOOLEAN_VALUE:
            return int(bits != 0)
        return bits & _HALF if number == INT_VALUE else bits

    def _quality(self, properties: Span) -> int | None:
        """Return what the property `Quality` says, None if there is none."""
        keys: list[bytes] = []
        values: list[Span] = []
        for number, wire, _, span in self._fields(properties):
            if wire == _BYTES and number == 1:
                keys.append(self._content[slice(*span)])
            elif wire == _BYTES and number == 2:  # noqa: PLR2004
                values.append(span)
        if _QUALITY not in keys or keys.index(_QUALITY) >= len(values):
            return None
        found = None
        for number, wire, value, _ in self._fields(values[keys.index(_QUALITY)]):
            if wire == _VARINT and number in {3, 4}:
                found = value & _HALF
        return found

    def _text(self, span: Span) -> str:
        try:
            return self._content[slice(*span)].decode()
        except UnicodeDecodeError:
            raise PayloadRejected(RejectReason.MALFORMED) from None

    def _fields(self, whole: Span) -> Iterator[tuple[int, int, int, Span]]:
        """Yield number, wire type, bits and place of each field; the latter two where the type has them."""
        at, end = whole
        content = self._content
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise PayloadRejected(RejectReason.TOO_MANY_ELEMENTS)
            key, at = self._varint(at, end)
            number, wire, bits, span = key >> 3, key & 7, 0, (at, at)
            if wire == _VARINT:
                bits, at = self._varint(at, end)
            elif wire in {_FIXED32, _FIXED64}:
                size = 4 if wire == _FIXED32 else 8
                bits = int.from_bytes(content[at : at + size], "little")
                at += size
            elif wire == _BYTES:
                size, at = self._varint(at, end)
                span = (at, at + size)
                at += size
            else:  # groups, which the schema does not have
                raise PayloadRejected(RejectReason.MALFORMED)
            if at > end or not 0 < number <= _MAX_FIELD:
                raise PayloadRejected(RejectReason.MALFORMED)
            yield number, wire, bits, span

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = 0
        for place in range(_MAX_VARINT):
            if at >= end:
                break
            byte = self._content[at]
            at += 1
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:  # noqa: PLR2004  no byte follows
                return value & _WORD, at
        raise PayloadRejected(RejectReason.MALFORMED)
