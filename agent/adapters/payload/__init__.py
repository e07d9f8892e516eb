"""Payload formats: bytes in, samples out, one table. Nothing that arrives raises anything but PayloadRejected.

The format is what the configuration says; it is never guessed from content.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Final, TypeAlias

from agent.adapters.payload.compression import ZSTD_MODULE, unpacker
from agent.adapters.payload.raw import RawDecoder
from agent.adapters.payload.rejection import PayloadRejected, RejectReason
from agent.adapters.payload.settings import (
    MAX_DEPTH,
    ByteOrder,
    Compression,
    Format,
    NumberType,
    PayloadSettings,
    RawSettings,
    TextNumbers,
    TimeSettings,
    TimeUnit,
)
from agent.adapters.payload.text import csv_decoder, value_decoder
from agent.adapters.payload.tree import MAX_ELEMENTS, at_path, read_json, read_time, tree_decoder
from agent.core.types import Sample
from agent.errors import Problem

__all__ = [
    "MAX_DEPTH",
    "MAX_ELEMENTS",
    "ByteOrder",
    "Compression",
    "Decoder",
    "Format",
    "NumberType",
    "PayloadRejected",
    "PayloadSettings",
    "RawSettings",
    "RejectReason",
    "TextNumbers",
    "TimeSettings",
    "TimeUnit",
    "at_path",
    "make_decoder",
    "payload_problems",
    "read_json",
    "read_time",
    "watched",
]

Decoder: TypeAlias = Callable[[bytes, float], list[Sample]]

_FORMATS: Final[dict[Format, Callable[[PayloadSettings], Decoder]]] = {
    Format.JSON: tree_decoder,
    Format.MSGPACK: tree_decoder,
    Format.CBOR: tree_decoder,
    Format.CSV: csv_decoder,
    Format.VALUE: value_decoder,
    Format.RAW: RawDecoder,
}
_TIMELESS: Final = (Format.VALUE, Format.RAW, Format.SPARKPLUG)
_PACKAGES: Final = {"cbor2": "cbor2", ZSTD_MODULE: "backports.zstd"}  # by module


def make_decoder(settings: PayloadSettings, max_bytes: int) -> Decoder:
    """Return the decoder of a stream: (payload, received_at) to samples, oldest first.

    Not for Sparkplug, whose messages mean something only by their topics and by those before: see `SparkplugNodes`.
    The decoder raises PayloadRejected, whatever the bytes. Raises ModuleNotFoundError if what `payload_problems` asks
    for is not installed.
    """
    decode = _FORMATS[settings.format](settings)
    if settings.ignore_channels:
        decode = _without(settings.ignore_channels, decode)
    plain = unpacker(settings.compression, max_bytes)
    return lambda payload, received_at: decode(plain(payload), received_at)


def _without(ignored: tuple[str, ...], decode: Decoder) -> Decoder:
    """Return a decoder that takes ignored channels, and all below them, out of what `decode` finds."""
    wanted = watched(ignored)

    def decoded(payload: bytes, received_at: float) -> list[Sample]:
        kept = []
        for sample in decode(payload, received_at):
            values = wanted(sample.values)
            if values:
                kept.append(Sample(sample.at, values))
        if not kept:
            raise PayloadRejected(RejectReason.NO_VALUES)
        return kept

    return decoded


def watched(ignored: tuple[str, ...]) -> Callable[[dict[str, float]], dict[str, float]]:
    """Return what takes ignored channels, and all below them, out of values by channel."""
    names, below = frozenset(ignored), tuple(f"{name}{mark}" for name in ignored for mark in "./")
    return lambda values: {
        name: value for name, value in values.items() if name not in names and not name.startswith(below)
    }


def payload_problems(settings: PayloadSettings) -> list[Problem]:
    """Return what types cannot say is wrong with these settings, and what is not installed; `where` is the key."""
    problems = []
    if settings.time is not None and settings.format in _TIMELESS:
        remedy = "the time of arrival counts"
        problems.append(Problem("time", f"none with format: {settings.format.value}", "one", remedy))
    if len(settings.delimiter) != 1 or settings.delimiter in '"\r\n':
        problems.append(Problem("delimiter", "one character", repr(settings.delimiter)))
    modules = {Format.CBOR: ("format", "cbor2"), Compression.ZSTD: ("compression", ZSTD_MODULE)}
    for key, module in (modules[word] for word in (settings.format, settings.compression) if word in modules):
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            remedy = "pip install 'redshank[formats]'"
            problems.append(Problem(key, f"the package {_PACKAGES[module]}", "none", remedy))
    return problems
