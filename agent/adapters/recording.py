"""Recordings: JSON Lines of messages as they arrived, or CSV with a time column."""

from __future__ import annotations

import base64
import csv
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from agent.core.types import Sample
from agent.errors import RecordingError
from agent.ports import InboundMessage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class RecordedMessage(msgspec.Struct, omit_defaults=True):
    """One line of a recording; `text` where the payload is UTF-8, else `base64`."""

    topic: str
    received_at: float
    text: str | None = None
    base64: str | None = None
    retained: bool = False


def line_of(message: InboundMessage) -> bytes:
    """Return one message as a line of a recording."""
    recorded = RecordedMessage(message.topic, message.received_at, retained=message.retained)
    try:
        recorded.text = message.payload.decode()
    except UnicodeDecodeError:
        recorded.base64 = base64.b64encode(message.payload).decode()
    return msgspec.json.encode(recorded) + b"\n"


def read_messages(path: Path) -> Iterator[InboundMessage]:
    """Yield the messages of a JSONL recording. Raises RecordingError with the line; a cut last line is left out."""
    decoder = msgspec.json.Decoder(RecordedMessage)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return  # the recorder was killed in the middle of it
            try:
                one = decoder.decode(line)
                payload = base64.b64decode(one.base64) if one.base64 is not None else (one.text or "").encode()
            except (msgspec.DecodeError, ValueError) as error:
                raise RecordingError(
                    f"{path}:{number}: expected a recorded message, found something else ({error}); "
                    "record it with `redshank record`"
                ) from error
            yield InboundMessage(one.topic, payload, one.received_at, one.received_at, retained=one.retained)


def read_csv(path: Path, time_column: str) -> Iterator[Sample]:
    """Yield the rows of a CSV file with a header as samples; empty and non-numeric fields are missing.

    The time column holds seconds since the epoch or ISO 8601 (UTC without a zone). Raises RecordingError.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        sample = file.read(4096)
        file.seek(0)
        delimiter = ";" if sample.split("\n", 1)[0].count(";") else ","
        rows = csv.DictReader(file, delimiter=delimiter)
        if time_column not in (rows.fieldnames or []):
            raise RecordingError(
                f"{path}: expected a column {time_column!r}, found {', '.join(rows.fieldnames or ['nothing'])}; "
                "name it with --time-column"
            )
        for number, row in enumerate(rows, 2):
            try:
                at = _time(row.pop(time_column))
            except (ValueError, TypeError) as error:
                raise RecordingError(f"{path}:{number}: expected a time, found {error}") from error
            yield Sample(at, {str(name): value for name, text in row.items() if (value := _number(text)) is not None})


def _time(text: Any) -> float:
    try:
        return float(text)
    except ValueError:
        stamp = datetime.fromisoformat(text)
        return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp()


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if abs(value) < float("inf") else None
