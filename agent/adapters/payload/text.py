"""Payloads of text: CSV, and one bare number."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from itertools import islice
from typing import Final

from agent.adapters.payload.rejection import PayloadRejected, RejectReason
from agent.adapters.payload.settings import PayloadSettings, TimeSettings
from agent.adapters.payload.tree import MAX_ELEMENTS, number, read_time
from agent.core.types import Sample

_LONGEST: Final = 100  # bytes of a number


def value_decoder(settings: PayloadSettings) -> Callable[[bytes, float], list[Sample]]:
    """Return the decoder of one number as text."""
    name = settings.channels[0] if settings.channels else "value"

    def decode(payload: bytes, received_at: float) -> list[Sample]:
        found = number(payload[:_LONGEST].decode(errors="replace"), parse_text=True)
        if found is None or len(payload) > _LONGEST:
            raise PayloadRejected(RejectReason.MALFORMED)
        return [Sample(received_at, {name: found})]

    return decode


def csv_decoder(settings: PayloadSettings) -> Callable[[bytes, float], list[Sample]]:
    """Return the decoder of CSV: each row is a sample."""
    timed = settings.time
    most = settings.max_samples + (not settings.columns)  # empty lines count, too

    def decode(payload: bytes, received_at: float) -> list[Sample]:
        try:
            text = payload.decode()
            if text.count(settings.delimiter) > MAX_ELEMENTS:
                raise PayloadRejected(RejectReason.TOO_MANY_ELEMENTS)
            lines = csv.reader(io.StringIO(text, newline=""), delimiter=settings.delimiter)
            rows = [row for row in islice(lines, most) if row]
            if next(lines, None) is not None:
                raise PayloadRejected(RejectReason.TOO_MANY_SAMPLES)
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
    if len(names) > settings.max_channels:
        raise PayloadRejected(RejectReason.TOO_MANY_CHANNELS)
    values = {}
    for name in names:
        found = number(fields.get(name), parse_text=True)
        if found is not None:
            values[name] = found
    if not values:
        raise PayloadRejected(RejectReason.NO_VALUES)
    return Sample(at, values)
