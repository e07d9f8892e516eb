"""How a stream's payloads are read: what the configuration says of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from agent.core.types import Duration, Settings, Size
from agent.core.windowing import MAX_CHANNELS

MAX_DEPTH: Final = 32


class Format(StrEnum):
    """How a payload is written."""

    JSON = "json"
    CSV = "csv"
    VALUE = "value"
    MSGPACK = "msgpack"
    CBOR = "cbor"
    RAW = "raw"
    SPARKPLUG = "sparkplug"


class Compression(StrEnum):
    """What a payload is packed with."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


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


class NumberType(StrEnum):
    """What a binary number is."""

    INT8 = "int8"
    UINT8 = "uint8"
    INT16 = "int16"
    UINT16 = "uint16"
    INT32 = "int32"
    UINT32 = "uint32"
    INT64 = "int64"
    UINT64 = "uint64"
    FLOAT32 = "float32"
    FLOAT64 = "float64"


class ByteOrder(StrEnum):
    """Which byte of a number comes first."""

    LITTLE = "little"
    BIG = "big"


class TimeSettings(Settings, frozen=True):
    """Where a payload's own time is. Without it, the time of arrival counts."""

    path: str
    unit: TimeUnit = TimeUnit.S
    zone: str = "UTC"
    max_ahead_s: Duration = 3600.0


class RawSettings(Settings, frozen=True):
    """What a block of bare numbers is. `sample_rate` in Hz, None: measured; `skip_bytes` stand before the numbers."""

    dtype: NumberType = NumberType.INT16
    byte_order: ByteOrder = ByteOrder.LITTLE
    sample_rate: float | None = None
    skip_bytes: Size = 0


class PayloadSettings(Settings, frozen=True, kw_only=True):
    """How a stream's payloads are read. `columns`: names of the CSV columns, in order.

    `ignore_channels` are never looked at, nor is what lies below them. `max_depth` are levels of nesting where channels
    are not named.
    """

    format: Format = Format.JSON
    compression: Compression = Compression.NONE
    channels: tuple[str, ...] = ()
    ignore_channels: tuple[str, ...] = ()
    time: TimeSettings | None = None
    text_numbers: TextNumbers = TextNumbers.IGNORE
    columns: tuple[str, ...] = ()
    delimiter: str = ","
    raw: RawSettings = RawSettings()
    max_channels: int = MAX_CHANNELS
    max_depth: int = MAX_DEPTH
    max_samples: int = 16_384
