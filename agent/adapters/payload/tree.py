"""Documents that are trees (JSON, MessagePack, CBOR): reading them, and taking numbers and times out of them."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from agent.adapters.payload.items import cbor_items, msgpack_items
from agent.adapters.payload.rejection import PayloadRejected, RejectReason
from agent.adapters.payload.settings import Format, PayloadSettings, TextNumbers, TimeSettings, TimeUnit
from agent.core.types import CLOCK_NOT_SET_S, Sample

MAX_ELEMENTS: Final = 50_000  # of one document: they take 30 ms to read
LARGEST: Final = 1e30  # no sensor means more, and windows are kept in single precision
_CBOR_DEPTH: Final = 500  # where channels are named, as deep as JSON goes, or about so
_CBOR_FOREIGN: Final = (  # tags that cbor2 would make something of: shared and cyclic values, patterns, mails, sets ...
    *(5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000),
)
_LARGEST_EXPONENT: Final = 400  # of a decimal fraction: beyond what a float holds
_UNITS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_CONTAINERS: Final = (dict, list)
_BEFORE_ELEMENTS: Final = (b",", b"[", b"{")
_EARLIEST: Final = 1.0  # s since the epoch; zero is what a device without a clock sends
_JSON: Final = msgspec.json.Decoder()
_MSGPACK: Final = msgspec.msgpack.Decoder()


def read_json(payload: bytes) -> Any:
    """Return the document. Raises PayloadRejected: MALFORMED, TOO_DEEP or TOO_MANY_ELEMENTS."""
    if sum(map(payload.count, _BEFORE_ELEMENTS)) > MAX_ELEMENTS:  # without reading it; those in text count, too
        raise PayloadRejected(RejectReason.TOO_MANY_ELEMENTS)
    try:
        return _JSON.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _lenient(payload)


def _lenient(payload: bytes) -> Any:
    """Return JSON with the NaN, Infinity and 1e400 that many senders write: such values count as missing."""
    try:
        document = json.loads(payload.decode())
        if b"\\u" in payload:
            json.dumps(document, ensure_ascii=False).encode()  # half a surrogate pair could never be written again
    except ValueError:
        raise PayloadRejected(RejectReason.MALFORMED) from None
    except RecursionError:
        raise PayloadRejected(RejectReason.TOO_DEEP) from None
    return document


def read_msgpack(payload: bytes) -> Any:
    """Return the document. Raises PayloadRejected: MALFORMED, TOO_DEEP or TOO_MANY_ELEMENTS."""
    if len(payload) > MAX_ELEMENTS and msgpack_items(payload, MAX_ELEMENTS) > MAX_ELEMENTS:
        raise PayloadRejected(RejectReason.TOO_MANY_ELEMENTS)
    try:
        return _MSGPACK.decode(payload)
    except RecursionError:
        raise PayloadRejected(RejectReason.TOO_DEEP) from None
    except ValueError:  # msgspec's errors are ValueErrors
        raise PayloadRejected(RejectReason.MALFORMED) from None


def cbor_reader() -> Callable[[bytes], Any]:
    """Return how CBOR (RFC 8949) is read. Raises ModuleNotFoundError if cbor2 is not installed.

    Of tags, times, large integers and decimal fractions are heeded; a value with any other is missing.
    """
    cbor2 = importlib.import_module("cbor2")
    tags: dict[int, Callable[[Any, bool], Any]] = dict.fromkeys(_CBOR_FOREIGN, lambda _value, _immutable: None)
    # A float, since as a key of a map an integer without bounds could be made to collide with others at will.
    tags[2] = lambda value, _immutable: _as_float(int.from_bytes(value))
    tags[3] = lambda value, _immutable: _as_float(-1 - int.from_bytes(value))
    tags[4] = lambda value, _immutable: _decimal_fraction(value)

    def read(payload: bytes) -> Any:
        if len(payload) > MAX_ELEMENTS and cbor_items(payload, MAX_ELEMENTS) > MAX_ELEMENTS:
            raise PayloadRejected(RejectReason.TOO_MANY_ELEMENTS)
        file = io.BytesIO(payload)
        try:
            document = cbor2.CBORDecoder(file, semantic_decoders=tags, max_depth=_CBOR_DEPTH).decode()
        except cbor2.CBORDecodeError as error:
            deep = "nesting depth" in str(error)
            raise PayloadRejected(RejectReason.TOO_DEEP if deep else RejectReason.MALFORMED) from None
        if file.read(1):
            raise PayloadRejected(RejectReason.MALFORMED)
        return document

    return read


def _as_float(value: int) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None


def _decimal_fraction(value: Any) -> float | None:
    """Return what a pair of exponent and mantissa stands for (RFC 8949, section 3.4.4), None for anything else."""
    match list(value) if isinstance(value, list | tuple) else None:
        case [int(exponent), int(mantissa)] if abs(exponent) <= _LARGEST_EXPONENT:
            return float(f"{mantissa}e{exponent}")
    return None


READERS: Final[dict[Format, Callable[[], Callable[[bytes], Any]]]] = {
    Format.JSON: lambda: read_json,
    Format.MSGPACK: lambda: read_msgpack,
    Format.CBOR: cbor_reader,
}


def tree_decoder(settings: PayloadSettings) -> Callable[[bytes, float], list[Sample]]:
    """Return the decoder of documents: each is one sample."""
    read = READERS[settings.format]()
    timed = settings.time
    paths = [(name, name.split(".")) for name in settings.channels]
    time_path = timed.path.split(".") if timed else []
    parse_text = settings.text_numbers is TextNumbers.PARSE
    limits = {"max_depth": settings.max_depth, "max_channels": settings.max_channels}

    def decode(payload: bytes, received_at: float) -> list[Sample]:
        document = read(payload)
        at = read_time(timed, at_path(document, time_path), received_at) if timed else received_at
        values: dict[str, float] = {}
        if paths:
            for name, path in paths:
                value = number(at_path(document, path), parse_text=parse_text)
                if value is not None:
                    values[name] = value
        else:
            whole = document if type(document) in _CONTAINERS else {"value": document}
            values = Leaves(parse_text=parse_text, **limits).of(whole)
            if timed:
                values.pop(timed.path, None)
        if not values:
            raise PayloadRejected(RejectReason.NO_VALUES)
        return [Sample(at, values)]

    return decode


def at_path(document: Any, path: list[str]) -> Any:
    """Return what a document holds at a path of keys and indices, or None."""
    for key in path:
        digits = key.isdecimal() and len(key) < 6  # noqa: PLR2004  no list is longer
        if type(document) is dict:
            document = document.get(int(key) if digits and key not in document else key)
        elif type(document) is list and digits and int(key) < len(document):
            document = document[int(key)]
        else:
            return None
    return document


class Leaves:
    """Gathers every number of one document, by its dotted path."""

    def __init__(self, *, parse_text: bool, max_depth: int, max_channels: int) -> None:
        self._parse_text, self._max_depth, self._max_channels = parse_text, max_depth, max_channels
        self._values: dict[str, float] = {}

    def of(self, document: Any) -> dict[str, float]:
        """Return the numbers of a dict or list. Raises PayloadRejected: TOO_DEEP, TOO_MANY_...."""
        self._walk(document, "", 1)
        return self._values

    def _walk(self, node: Any, prefix: str, depth: int) -> None:
        if depth > self._max_depth:
            raise PayloadRejected(RejectReason.TOO_DEEP)
        values = self._values
        for key, child in node.items() if type(node) is dict else enumerate(node):
            kind = type(child)
            if kind is float and -LARGEST <= child <= LARGEST:
                value = child
            elif kind is dict or kind is list:
                if type(key) is str or type(key) is int:
                    self._walk(child, f"{prefix}{key}.", depth + 1)
                continue
            else:
                value = number(child, parse_text=self._parse_text)
                if value is None:
                    continue
            if type(key) is str or type(key) is int:  # MessagePack and CBOR allow any; a channel needs a name
                values[f"{prefix}{key}"] = value
                if len(values) > self._max_channels:
                    raise PayloadRejected(RejectReason.TOO_MANY_CHANNELS)


def number(value: Any, *, parse_text: bool) -> float | None:
    """Return a float of at most LARGEST, or None: missing. Booleans count as 0 and 1; NaN and infinities as missing."""
    if type(value) is float:
        return value if abs(value) <= LARGEST else None
    if isinstance(value, int):
        return float(value) if abs(value) <= LARGEST else None
    if parse_text and isinstance(value, str):
        try:
            found = float(value)
        except ValueError:
            return None
        return found if abs(found) <= LARGEST else None
    return None


def read_time(settings: TimeSettings, value: Any, received_at: float) -> float:
    """Return seconds since the epoch. Raises PayloadRejected: BAD_TIMESTAMP or FUTURE."""
    try:
        if settings.unit is TimeUnit.ISO or isinstance(value, datetime):
            stamp = value if isinstance(value, datetime) else datetime.fromisoformat(value)
            if stamp.tzinfo is None:
                stamp = stamp.replace(tzinfo=ZoneInfo(settings.zone))
            at = stamp.astimezone(UTC).timestamp()
        elif isinstance(value, bool):
            raise PayloadRejected(RejectReason.BAD_TIMESTAMP)
        else:
            at = float(value) * _UNITS[settings.unit]
    except (TypeError, ValueError, OverflowError):
        raise PayloadRejected(RejectReason.BAD_TIMESTAMP) from None
    return within(at, received_at, settings.max_ahead_s)


def within(at: float, received_at: float, max_ahead_s: float) -> float:
    """Return a time that may be believed. Raises PayloadRejected: BAD_TIMESTAMP or FUTURE."""
    if not at >= _EARLIEST:
        raise PayloadRejected(RejectReason.BAD_TIMESTAMP)
    if at > received_at + max_ahead_s and received_at >= CLOCK_NOT_SET_S:  # else it is our own clock that is wrong
        raise PayloadRejected(RejectReason.FUTURE)
    return at
