"""How a payload is written, told by what reads it without an exception. One table; a new format is one entry.

Nothing is guessed from names: the decoders are those that the agent reads with.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, TypeAlias

import msgspec

from agent.adapters.payload import (
    MAX_DEPTH,
    Compression,
    Format,
    PayloadRejected,
    PayloadSettings,
    RejectReason,
    make_decoder,
    payload_problems,
    read_json,
)
from agent.adapters.payload.compression import unpacker
from agent.adapters.payload.tree import LARGEST, READERS, number
from agent.adapters.pictures import PictureSettings, open_picture, picture_file
from agent.discovery.fields import Scalar

MAX_LEAVES: Final = 512  # of one document
_DELIMITERS: Final = ",;\t"
_MIN_COLUMNS: Final = 2
_NO_VALUE: Final = frozenset({"unavailable", "unknown", "none", "null", "nan", "n/a", "undefined"})
_PICTURE: Final = re.compile(rb"\s*(\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8|RIFF....WEBP|data:image/)", re.DOTALL)
_BASE64_STARTS: Final = ("/9j/", "iVBORw0KGg", "UklGR", "R0lGOD", "data:image/")
_SHORTEST_PICTURE: Final = 100  # characters of base64
_COMMA: Final = re.compile(r"\s*-?\d+,\d+\s*")
_NEEDED: Final = (224.0, 224.0)  # pixels: a large JPEG is decoded at a fraction of its size


class Kind(StrEnum):
    """What a payload is; the value is what a person calls it."""

    VALUE = "plain numbers"
    JSON = "JSON"
    CSV = "CSV"
    MSGPACK = "MessagePack"
    CBOR = "CBOR"
    SPARKPLUG = "Sparkplug B"
    PICTURE = "pictures"
    JSON_PICTURE = "pictures in JSON"
    COMMA = "two numbers with a comma between them: a decimal comma, or two columns"
    NO_VALUE = "words for a missing value"
    TEXT = "text"
    MISSING = "packed with what `pip install 'redshank[formats]'` brings"
    BINARY = "bytes of no known format: bare numbers need `format: raw`"


TREES: Final = frozenset({Kind.JSON, Kind.MSGPACK, Kind.CBOR})
_PACKABLE: Final = TREES | {Kind.VALUE, Kind.CSV}
_PACKED: Final = ((b"\x1f\x8b", Compression.GZIP), (b"\x28\xb5\x2f\xfd", Compression.ZSTD))


class Form(msgspec.Struct, frozen=True):
    """A kind with what else must be known to read it.

    `header`: the first row names the columns. `path`: where in the document the picture is. `compression`: what all of
    it is packed with.
    """

    kind: Kind
    delimiter: str = ""
    columns: int = 0
    header: bool = False
    path: str = ""
    compression: Compression = Compression.NONE


class Look(msgspec.Struct, frozen=True):
    """What one payload is, and what is in it: for each row or document its leaves, by dotted path.

    `json_too`: a plain number that is JSON, too. `unaddressable`: leaves that no path leads to. `unpacked`: bytes.
    """

    form: Form
    rows: list[dict[str, Scalar]]
    json_too: bool = False
    unaddressable: frozenset[str] = frozenset()
    unpacked: int = 0


Recogniser: TypeAlias = Callable[[bytes, float], Look | None]


def look(payload: bytes, at: float) -> Look:
    """Return what a payload that is not empty is."""
    for recognise in RECOGNISERS:
        found = recognise(payload, at)
        if found is not None:
            return found
    return Look(Form(Kind.BINARY), [])


def _picture(payload: bytes, at: float) -> Look | None:
    del at
    if _PICTURE.match(payload) is None:
        begun = payload[:64].lstrip().decode("ascii", "replace").startswith(_BASE64_STARTS)
        if not begun or len(payload) < _SHORTEST_PICTURE:
            return None
    return Look(Form(Kind.PICTURE), []) if shows(payload) else None


def shows(content: bytes) -> bool:
    """Tell whether this is a picture that can be decoded; without Pillow, its beginning is believed."""
    try:
        open_picture(picture_file(content), PayloadLimits.pixels, _NEEDED)
    except PayloadRejected:
        return False
    except ImportError:
        return True
    return True


class PayloadLimits:
    """What the agent reads at most by default."""

    pixels: Final = PictureSettings().max_pixels
    bytes: Final = 16 << 20  # unpacked; of a message, what is too large is told elsewhere


_read_value: Final = make_decoder(PayloadSettings(format=Format.VALUE), PayloadLimits.bytes)
_read_json: Final = make_decoder(PayloadSettings(format=Format.JSON), PayloadLimits.bytes)


def _value(payload: bytes, at: float) -> Look | None:
    if len(payload) > 100:  # noqa: PLR2004  as the decoder says
        return None
    if payload.strip().lower().decode(errors="replace") in _NO_VALUE:
        return Look(Form(Kind.NO_VALUE), [])
    try:
        (sample,) = _read_value(payload, at)
    except PayloadRejected:
        return None
    return Look(Form(Kind.VALUE), [dict(sample.values)], json_too=_is_json(payload))


def _is_json(payload: bytes) -> bool:
    try:
        read_json(payload)
    except PayloadRejected:
        return False
    return True


def _json(payload: bytes, at: float) -> Look | None:
    try:
        _read_json(payload, at)
    except PayloadRejected as rejection:
        if rejection.reason is not RejectReason.NO_VALUES:
            return None
    document = read_json(payload)
    rows, unaddressable = leaves(document)
    return _picture_in(rows, unaddressable) or Look(Form(Kind.JSON), [rows], unaddressable=unaddressable)


def _picture_in(rows: dict[str, Scalar], unaddressable: frozenset[str]) -> Look | None:
    """Return where a document holds a picture as base64, None if it does not."""
    for path, text in rows.items():
        long = isinstance(text, str) and len(text) >= _SHORTEST_PICTURE and path not in unaddressable
        if long and str(text).startswith(_BASE64_STARTS) and shows(str(text).encode("ascii", "replace")):
            return Look(Form(Kind.JSON_PICTURE, path=path), [rows])
    return None


def _unpacked(payload: bytes, at: float) -> Look | None:
    for start, compression in _PACKED:
        if not payload.startswith(start):
            continue
        if payload_problems(PayloadSettings(compression=compression)):
            return Look(Form(Kind.MISSING), [])
        try:
            inner = unpacker(compression, PayloadLimits.bytes)(payload)
        except PayloadRejected:
            return None
        if not inner:
            return None
        found = look(inner, at)
        if found.form.kind not in _PACKABLE:
            return None
        form = msgspec.structs.replace(found.form, compression=compression)
        return msgspec.structs.replace(found, form=form, unpacked=len(inner))
    return None


def _document(kind: Kind, format_: Format) -> Recogniser:
    """Return what recognises binary documents: maps, for almost anything is a number or a list in such a format."""
    settings = PayloadSettings(format=format_)

    def recognise(payload: bytes, at: float) -> Look | None:
        if payload_problems(settings):
            return None
        try:
            document = READERS[format_]()(payload)
            if not isinstance(document, dict) or not document:
                return None
            make_decoder(settings, PayloadLimits.bytes)(payload, at)
        except PayloadRejected as rejection:
            if rejection.reason is not RejectReason.NO_VALUES:
                return None
        rows, unaddressable = leaves(document)
        return Look(Form(kind), [rows], unaddressable=unaddressable)

    return recognise


def leaves(document: Any) -> tuple[dict[str, Scalar], frozenset[str]]:
    """Return what stands in a document by dotted path, as the decoder names it, and which paths lead nowhere."""
    found: dict[str, Scalar] = {}
    lost: set[str] = set()
    waiting: list[tuple[str, Any, bool, int]] = [("", document, True, 0)]
    while waiting and len(found) < MAX_LEAVES:
        prefix, node, reached, depth = waiting.pop()
        if isinstance(node, dict | list) and depth < MAX_DEPTH:
            items = list(node.items() if isinstance(node, dict) else enumerate(node))
            for key, child in reversed(items):
                if type(key) is not str and type(key) is not int:
                    continue  # of MessagePack and CBOR: no channel
                name = str(key)
                there = reached and name != "" and "." not in name
                waiting.append((f"{prefix}.{name}" if depth else name, child, there, depth + 1))
        elif isinstance(node, datetime):
            found[prefix] = node.isoformat()
        elif isinstance(node, bool | str) or (isinstance(node, int | float) and abs(node) <= LARGEST):
            path = prefix if depth else "value"
            found[path] = node
            if not reached:
                lost.add(path)
    return found, frozenset(lost)


def _csv(payload: bytes, at: float) -> Look | None:
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return None
    if _COMMA.fullmatch(text) is not None:
        return Look(Form(Kind.COMMA), [])
    for delimiter in _DELIMITERS:
        if delimiter in text:
            found = _columns(payload, text, delimiter, at)
            if found is not None:
                return found
    return None


def _columns(payload: bytes, text: str, delimiter: str, at: float) -> Look | None:
    try:
        rows = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if row]
    except csv.Error:
        return None
    width = len(rows[0]) if rows else 0
    if width < _MIN_COLUMNS or any(len(row) != width for row in rows):
        return None
    first = rows[0]
    header = (
        len(rows) > 1
        and all(number(one, parse_text=True) is None for one in first)
        and len(set(first)) == width
        and all(first)
    )
    names = first if header else [column(index) for index in range(width)]
    settings = PayloadSettings(format=Format.CSV, columns=() if header else tuple(names), delimiter=delimiter)
    try:
        make_decoder(settings, PayloadLimits.bytes)(payload, at)
    except PayloadRejected:
        return None
    found: list[dict[str, Scalar]] = [
        {name: _cell(cell) for name, cell in zip(names, row, strict=True)} for row in (rows[1:] if header else rows)
    ]
    return Look(Form(Kind.CSV, delimiter, width, header), found)


def column(index: int) -> str:
    """Return the name of a CSV column that has none."""
    return f"column{index + 1}"


def _cell(text: str) -> Scalar:
    found = number(text, parse_text=True)
    return text if found is None else found


def _text(payload: bytes, at: float) -> Look | None:
    del at
    try:
        payload.decode()
    except UnicodeDecodeError:
        return None
    return Look(Form(Kind.TEXT), [])


# Asked in this order: the first that reads a payload says what it is.
RECOGNISERS: Final[tuple[Recogniser, ...]] = (
    _picture,
    _unpacked,
    _value,
    _json,
    _csv,
    _text,
    _document(Kind.MSGPACK, Format.MSGPACK),
    _document(Kind.CBOR, Format.CBOR),
)
