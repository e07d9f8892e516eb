"""How many items a binary document has, told from their heads alone: a byte each makes a list that takes fifty.

Nothing is checked here beyond that: what is malformed is found by who reads it.
"""

from __future__ import annotations

from typing import Final

# Of MessagePack, by an item's first byte: bytes behind it, and how many bytes of a length come before as many more.
_FIXED: Final = bytearray(256)
_LENGTH: Final = bytearray(256)
_FIXED[0xA0:0xC0] = range(32)  # short text
for _heads, _sizes in (
    (range(0xCA, 0xD4), (4, 8, 1, 2, 4, 8, 1, 2, 4, 8)),  # numbers
    (range(0xD4, 0xD9), (2, 3, 5, 9, 17)),  # extensions of fixed size, with their type
    (range(0xDC, 0xE0), (2, 4, 2, 4)),  # lists and maps
    (range(0xC7, 0xCA), (1, 1, 1)),  # extensions: their type
):
    for _head, _size in zip(_heads, _sizes, strict=True):
        _FIXED[_head] = _size
for _heads in (range(0xC4, 0xC7), range(0xC7, 0xCA), range(0xD9, 0xDC)):  # bytes, extensions, text
    for _head, _size in zip(_heads, (1, 2, 4), strict=True):
        _LENGTH[_head] = _size

_CBOR_LENGTH: Final = {24: 1, 25: 2, 26: 4, 27: 8}  # bytes of an argument, by the lower five bits of a head
_CBOR_TEXT: Final = (2, 3)  # major types that have as many bytes as their argument says


def msgpack_items(payload: bytes, most: int) -> int:
    """Return how many items a MessagePack document has, or one more than `most`."""
    at, end, items = 0, len(payload), 0
    while at < end and items <= most:
        head = payload[at]
        at += 1
        length = _LENGTH[head]
        if length:
            at += length + int.from_bytes(payload[at : at + length])
        at += _FIXED[head]
        items += 1
    return items


def cbor_items(payload: bytes, most: int) -> int:
    """Return how many items a CBOR document has (RFC 8949, section 3), or one more than `most`."""
    at, end, items = 0, len(payload), 0
    while at < end and items <= most:
        major, argument = divmod(payload[at], 32)
        at += 1
        length = _CBOR_LENGTH.get(argument, 0)
        if length:
            argument = int.from_bytes(payload[at : at + length])
            at += length
        elif argument > 27:  # noqa: PLR2004  of no definite length
            argument = 0
        if major in _CBOR_TEXT:
            at += argument
        items += 1
    return items
