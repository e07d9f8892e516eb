"""Recordings: JSON Lines of messages as they arrived, or CSV with a time column."""

from __future__ import annotations

import base64
import csv
import math
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import msgspec

from agent.core.types import Sample
from agent.errors import RecordingError
from agent.ports import InboundMessage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LATEST: Final = 253402300799.0  # the end of the year 9999; what counts milliseconds is beyond it
_BLOCK: Final = 1 << 16
PICTURES: Final = (".jpg", ".jpeg", ".png", ".webp", ".gif")


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


def open_to_append(path: Path) -> BinaryIO:
    """Open a recording to go on with it; a last line that a killed recorder left unfinished is cut off."""
    file = path.open("a+b")
    end = file.seek(0, os.SEEK_END)
    kept = end
    while kept > 0:
        start = max(0, kept - _BLOCK)
        file.seek(start)
        newline = file.read(kept - start).rfind(b"\n")
        if newline >= 0:
            kept = start + newline + 1
            break
        kept = start
    file.truncate(kept)
    return file


def read_messages(path: Path) -> Iterator[InboundMessage]:
    """Yield the messages of a JSONL recording. Raises RecordingError with the line; a cut last line is left out."""
    decoder = msgspec.json.Decoder(RecordedMessage)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                one = decoder.decode(line)
                if one.base64 is None:
                    payload = (one.text or "").encode()
                else:
                    payload = base64.b64decode(one.base64, validate=True)
            except ValueError as error:  # a decoder's error is a ValueError too
                if not line.endswith(b"\n"):
                    return  # the recorder was killed in the middle of it
                raise RecordingError(
                    f"{path}:{number}: expected a recorded message, found something else ({error}); "
                    "record it with `redshank record`"
                ) from error
            yield InboundMessage(one.topic, payload, one.received_at, one.received_at, retained=one.retained)


def read_folder(folder: Path) -> list[Path]:
    """Return a folder's pictures in the order of their names. Raises RecordingError if there are none."""
    files = sorted(one for one in folder.iterdir() if one.suffix.lower() in PICTURES and one.is_file())
    if not files:
        raise RecordingError(f"{folder}: expected pictures ({', '.join(PICTURES)}), found none")
    return files


def read_csv(path: Path, time_column: str) -> Iterator[Sample]:
    """Yield the rows of a CSV file with a header as samples; empty and non-numeric fields are missing.

    The time column holds seconds since the epoch or ISO 8601 (UTC without a zone). Raises RecordingError.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            header = file.readline()
            file.seek(0)
            rows = csv.DictReader(file, delimiter=";" if ";" in header else ",")
            if time_column not in (rows.fieldnames or []):
                raise RecordingError(
                    f"{path}:1: expected a column {time_column!r}, found {', '.join(rows.fieldnames or ['nothing'])}; "
                    "name it with --time-column"
                )
            for row in rows:
                text = row.pop(time_column)
                at = _time(text)
                if at is None:
                    raise RecordingError(
                        f"{path}:{rows.line_num}: expected a time (seconds since 1970 or ISO 8601), found {text!r}"
                    )
                numbers = {str(name): value for name, text in row.items() if (value := _number(text)) is not None}
                yield Sample(at, numbers)
        except UnicodeDecodeError as error:
            raise RecordingError(f"{path}: expected text in UTF-8, found something else ({error})") from error
        except csv.Error as error:
            raise RecordingError(
                f"{path}:{rows.reader.line_num}: expected CSV, found something else ({error})"
            ) from error


def _time(text: Any) -> float | None:
    """Return seconds since the epoch, or None for what is no time, or none that a calendar knows."""
    try:
        at = float(text)
    except TypeError:
        return None
    except ValueError:
        try:
            stamp = datetime.fromisoformat(text)
        except ValueError:
            return None
        at = (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp()
    return at if 0 <= at <= _LATEST else None


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
