"""Payload formats: bytes in, samples out, one table. Nothing that arrives raises anything but PayloadRejected.

The format is what the configuration says; it is never guessed from content.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, TypeAlias
from zoneinfo import ZoneInfo

import msgspec

from agent.core.types import Duration, Sample, Settings
from agent.core.windowing import MAX_CHANNELS

MAX_DEPTH: Final = 32
LARGEST: Final = 1e30  # no sensor means more, and windows are kept in single precision
_UNITS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_JSON: Final = msgspec.json.Decoder()
_CONTAINERS: Final = (dict, list)
_EARLIEST: Final = 1.0  # s since the epoch; zero is what a device without a clock sends


class Format(StrEnum):
    """How a payload is written."""

    JSON = "json"
    CSV = "csv"
    VALUE = "value"


class TimeUnit(StrEnum):
    """What a payload's timestamp counts, or ISO 8601 text."""

    S = "s"
    MS = "ms"
    US = "us"
    NS = "ns"
    ISO = "iso"


class TextNumbers(StrEnum):
    """What to do with numbers written as text."""

    IGNORE = "ignore"
    PARSE = "parse"


class TimeSettings(Settings, frozen=True):
    """Where a payload's own time is. Without it, the time of arrival counts."""

    path: str
    unit: TimeUnit = TimeUnit.S
    zone: str = "UTC"
    max_ahead_s: Duration = 3600.0


class PayloadSettings(Settings, frozen=True, kw_only=True):
    """How a stream's payloads are read. `columns`: names of the CSV columns, in order.

    `ignore_channels` are never looked at, nor is what lies below them.
    """

    format: Format = Format.JSON
    channels: tuple[str, ...] = ()
    ignore_channels: tuple[str, ...] = ()
    time: TimeSettings | None = None
    text_numbers: TextNumbers = TextNumbers.IGNORE
    columns: tuple[str, ...] = ()
    delimiter: str = ","


class RejectReason(StrEnum):
    """Why a payload was dropped; the closed set of the metric's label."""

    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    TOO_DEEP = "too_deep"
    NO_VALUES = "no_values"
    TOO_MANY_CHANNELS = "too_many_channels"
    BAD_TIMESTAMP = "bad_timestamp"
    FUTURE = "future"
    RETAINED = "retained"
    TOO_MANY_STREAMS = "too_many_streams"
    DUPLICATE = "duplicate"
    LATE = "late"
    SURPLUS = "surplus"
    NO_CHANNEL = "no_channel"


class PayloadRejected(Exception):  # noqa: N818  an outcome, caught where messages are handled, not an error of ours
    """The payload was dropped, for this reason."""

    def __init__(self, reason: RejectReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


Decoder: TypeAlias = Callable[[bytes, float], list[Sample]]


def make_decoder(settings: PayloadSettings, max_bytes: int) -> Decoder:
    """Return the decoder of a stream: (payload, received_at) to samples, oldest first."""
    decode = _FORMATS[settings.format](settings)
    if settings.ignore_channels:
        decode = _without(settings.ignore_channels, decode)

    def checked(payload: bytes, received_at: float) -> list[Sample]:
        if len(payload) > max_bytes:
            raise PayloadRejected(RejectReason.TOO_LARGE)
        return decode(payload, received_at)

    return checked


def _without(ignored: tuple[str, ...], decode: Decoder) -> Decoder:
    """Return a decoder that takes ignored channels, and all below them, out of what `decode` finds."""
    names, below = frozenset(ignored), tuple(f"{name}." for name in ignored)

    def decoded(payload: bytes, received_at: float) -> list[Sample]:
        kept = []
        for sample in decode(payload, received_at):
            values = {
                name: value for name, value in sample.values.items() if name not in names and not name.startswith(below)
            }
            if values:
                kept.append(Sample(sample.at, values))
        if not kept:
            raise PayloadRejected(RejectReason.NO_VALUES)
        return kept

    return decoded


def _json(settings: PayloadSettings) -> Decoder:
    timed = settings.time
    paths = [(name, name.split(".")) for name in settings.channels]
    time_path = timed.path.split(".") if timed else []
    parse_text = settings.text_numbers is TextNumbers.PARSE

    def decode(payload: bytes, received_at: float) -> list[Sample]:
        document = read_json(payload)
        at = read_time(timed, at_path(document, time_path), received_at) if timed else received_at
        values: dict[str, float] = {}
        if paths:
            for name, path in paths:
                number = _number(at_path(document, path), parse_text=parse_text)
                if number is not None:
                    values[name] = number
        else:
            _leaves(
                document if type(document) in _CONTAINERS else {"value": document}, "", values, 1, parse_text=parse_text
            )
            if timed:
                values.pop(timed.path, None)
        if not values:
            raise PayloadRejected(RejectReason.NO_VALUES)
        return [Sample(at, values)]

    return decode


def read_json(payload: bytes) -> Any:
    """Return the document. Raises PayloadRejected: MALFORMED or TOO_DEEP."""
    try:
        return _JSON.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _lenient(payload)


def _lenient(payload: bytes) -> Any:
    """Return JSON with the NaN, Infinity and 1e400 that many senders write: such values count as missing."""
    try:
        document = json.loads(payload.decode())
        json.dumps(document, ensure_ascii=False).encode()  # half a surrogate pair could never be written again
    except ValueError:
        raise PayloadRejected(RejectReason.MALFORMED) from None
    except RecursionError:
        raise PayloadRejected(RejectReason.TOO_DEEP) from None
    return document


def _value(settings: PayloadSettings) -> Decoder:
    name = settings.channels[0] if settings.channels else "value"

    def decode(payload: bytes, received_at: float) -> list[Sample]:
        number = _number(payload[:100].decode(errors="replace"), parse_text=True)
        if number is None or len(payload) > 100:  # noqa: PLR2004  no number is longer
            raise PayloadRejected(RejectReason.MALFORMED)
        return [Sample(received_at, {name: number})]

    return decode


def _csv(settings: PayloadSettings) -> Decoder:
    timed = settings.time

    def decode(payload: bytes, received_at: float) -> list[Sample]:
        try:
            rows = [row for row in csv.reader(payload.decode().splitlines(), delimiter=settings.delimiter) if row]
        except (UnicodeDecodeError, csv.Error):
            raise PayloadRejected(RejectReason.MALFORMED) from None
        columns = list(settings.columns)
        if not columns and rows:
            columns = rows.pop(0)
        samples = [_row(dict(zip(columns, row, strict=False)), settings, timed, received_at) for row in rows]
        if not samples:
            raise PayloadRejected(RejectReason.NO_VALUES)
        return samples

    return decode


def _row(fields: dict[str, str], settings: PayloadSettings, timed: TimeSettings | None, received_at: float) -> Sample:
    at = read_time(timed, fields.pop(timed.path, None), received_at) if timed else received_at
    names = settings.channels or tuple(fields)
    if len(names) > MAX_CHANNELS:
        raise PayloadRejected(RejectReason.TOO_MANY_CHANNELS)
    values = {}
    for name in names:
        number = _number(fields.get(name), parse_text=True)
        if number is not None:
            values[name] = number
    if not values:
        raise PayloadRejected(RejectReason.NO_VALUES)
    return Sample(at, values)


_FORMATS: Final[dict[Format, Callable[[PayloadSettings], Decoder]]] = {
    Format.JSON: _json,
    Format.CSV: _csv,
    Format.VALUE: _value,
}


def at_path(document: Any, path: list[str]) -> Any:
    """Return what a document holds at a path of keys and indices, or None."""
    for key in path:
        if type(document) is dict:
            document = document.get(key)
        elif type(document) is list and key.isdigit() and len(key) < 6 and int(key) < len(document):  # noqa: PLR2004
            document = document[int(key)]
        else:
            return None
    return document


def _leaves(node: Any, prefix: str, values: dict[str, float], depth: int, *, parse_text: bool) -> None:
    """Add every number below `node`, a dict or a list, by its dotted path."""
    if depth > MAX_DEPTH:
        raise PayloadRejected(RejectReason.TOO_DEEP)
    for key, child in node.items() if type(node) is dict else enumerate(node):
        kind = type(child)
        if kind is float and -LARGEST <= child <= LARGEST:
            values[f"{prefix}{key}"] = child
        elif kind is dict or kind is list:
            _leaves(child, f"{prefix}{key}.", values, depth + 1, parse_text=parse_text)
        else:
            number = _number(child, parse_text=parse_text)
            if number is not None:
                values[f"{prefix}{key}"] = number
    if len(values) > MAX_CHANNELS:
        raise PayloadRejected(RejectReason.TOO_MANY_CHANNELS)


def _number(value: Any, *, parse_text: bool) -> float | None:
    """Return a float of at most LARGEST, or None: missing. Booleans count as 0 and 1; NaN and infinities as missing."""
    if type(value) is float:
        return value if abs(value) <= LARGEST else None
    if isinstance(value, int):
        return float(value) if abs(value) <= LARGEST else None
    if parse_text and isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return None
        return number if abs(number) <= LARGEST else None
    return None


def read_time(settings: TimeSettings, value: Any, received_at: float) -> float:
    """Return seconds since the epoch. Raises PayloadRejected: BAD_TIMESTAMP or FUTURE."""
    try:
        if settings.unit is TimeUnit.ISO:
            stamp = datetime.fromisoformat(value)
            if stamp.tzinfo is None:
                stamp = stamp.replace(tzinfo=ZoneInfo(settings.zone))
            at = stamp.astimezone(UTC).timestamp()
        elif isinstance(value, bool):
            raise PayloadRejected(RejectReason.BAD_TIMESTAMP)
        else:
            at = float(value) * _UNITS[settings.unit]
    except (TypeError, ValueError, OverflowError):
        raise PayloadRejected(RejectReason.BAD_TIMESTAMP) from None
    if not at >= _EARLIEST:
        raise PayloadRejected(RejectReason.BAD_TIMESTAMP)
    if at > received_at + settings.max_ahead_s:
        raise PayloadRejected(RejectReason.FUTURE)
    return at
