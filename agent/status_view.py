"""The table of `redshank status`: as lines of text, drawn again and again where there is a terminal."""

from __future__ import annotations

import os
import shutil
import sys
from time import sleep
from typing import TYPE_CHECKING, Final

from agent.adapters.mqtt import Hearing
from agent.alert_message import duration, moment
from agent.core.types import StreamPhase
from agent.errors import RemoteError
from agent.reload import ReloadOutcome

if TYPE_CHECKING:
    from agent.remote import RemoteAgent
    from agent.status import Status, StreamStatus

EVERY_S: Final = 1.0
_HEADINGS: Final = ("stream", "phase", "msg/s", "score", "alarm at", "known", "left", "last alert")
_LEFT: Final = (0, 1, 7)  # columns that are words
_LEAST_NAME: Final = 12
_LEAST_ROWS: Final = 3
_HOME, _CLEAR_LINE, _CLEAR_REST, _RESET = "\033[H", "\033[K", "\033[J", "\033[0m"
_RED, _YELLOW, _BOLD = "\033[1;31m", "\033[33m", "\033[1m"


def table(status: Status, width: int, rows: int | None = None, *, colour: bool = False) -> list[str]:
    """Return the lines, none longer than `width`, of at most `rows` streams."""
    shown = status.streams if rows is None else status.streams[:rows]
    cells = [_HEADINGS, *(_cells(one, status.at) for one in shown)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEADINGS))]
    others = sum(widths[1:]) + 2 * (len(widths) - 1)
    widths[0] = min(widths[0], max(_LEAST_NAME, width - others))
    lines = [line[:width] for line in _head(status)]
    for number, row in enumerate(cells):
        parts = [
            _cut(cell, size).ljust(size) if column in _LEFT else cell.rjust(size)
            for column, (cell, size) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(parts)[:width].rstrip()
        mark = (_BOLD if number == 0 else _mark(shown[number - 1])) if colour else ""
        lines.append(f"{mark}{line}{_RESET}" if mark else line)
    more = status.streams_total - len(shown)
    if more:
        lines.append(f"and {more} more"[:width])
    return lines


def show(agent: RemoteAgent, *, once: bool) -> None:
    """Print the table; where standard output is a terminal, again each second until interrupted."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    if once or not sys.stdout.isatty():
        width = shutil.get_terminal_size((160, 24)).columns
        sys.stdout.write("\n".join(table(agent.status(), width, colour=colour)) + "\n")
        return
    lines = table(agent.status(), *_room(), colour=colour)
    sys.stdout.write(_HOME + _CLEAR_REST)
    try:
        while True:
            sys.stdout.write(_HOME + "".join(f"{line}{_CLEAR_LINE}\n" for line in lines) + _CLEAR_REST)
            sys.stdout.flush()
            sleep(EVERY_S)
            try:
                lines = table(agent.status(), *_room(), colour=colour)
            except RemoteError as error:  # it may come back
                lines = [str(error)[: _room()[0]]]
    except KeyboardInterrupt:
        return


def _room() -> tuple[int, int]:
    """Return the terminal's width, and how many streams fit."""
    size = shutil.get_terminal_size()
    return size.columns, max(_LEAST_ROWS, size.lines - 8)


def _head(status: Status) -> list[str]:
    configuration, broker = status.configuration, status.broker
    last = configuration.last_reload
    connected = "connected" if broker.connected else "away"
    if broker.hearing is Hearing.LOST:
        connected += ", but it does not deliver"
    loaded = moment(configuration.loaded_at, status.at)
    lines = [
        f"{_plain(status.agent)} {status.version}, up {duration(status.uptime_s)}; {_plain(broker.url)} {connected}",
        f"{status.streams_total} streams, {status.learning} learning, {status.firing} with an alert",
        f"configuration {configuration.generation} of {loaded}",
    ]
    if status.troubles:
        lines.append(f"trouble: {_plain(', '.join(status.troubles))}; docs/reliability.md says what to do")
    if last is not None and last.outcome is ReloadOutcome.REFUSED:
        refused = moment(last.at, status.at)
        lines.append(f"the file of {refused} was refused, that one is still in force: {_plain(last.problems[0])}")
    return [*lines, ""]


def _cells(one: StreamStatus, now: float) -> tuple[str, ...]:
    last = one.last_alert
    told = ""
    if last is not None:
        told = f"{last.kind} since {moment(last.at, now)}" if last.firing else f"{last.kind}, {moment(last.at, now)}"
    left = "" if one.learning_left_s is None else duration(one.learning_left_s)
    return (
        _plain(one.name),
        one.phase.value,
        "" if one.rate is None else f"{one.rate:.3g}",
        "" if one.score is None else f"{one.score:.2f}",
        "" if one.threshold is None else f"{one.threshold:.2f}",
        str(one.reference_fill),
        (left or "?") if one.phase is StreamPhase.LEARNING else "",
        told,
    )


def _mark(one: StreamStatus) -> str:
    if one.last_alert is not None and one.last_alert.firing:
        return _RED
    return _YELLOW if one.phase is StreamPhase.LEARNING else ""


def _plain(text: str) -> str:
    """Return a text that came from outside without what a terminal would obey."""
    return "".join(mark if mark.isprintable() else "?" for mark in text)


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"
