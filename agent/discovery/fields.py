"""What one field of a topic's payloads was like over all of them, and what that makes of it."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, TypeAlias

from agent.adapters.payload import PayloadRejected, TimeSettings, TimeUnit, read_time

Scalar: TypeAlias = float | bool | str

_NUMERIC_TEXT: Final = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?")
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_LEAP_S: Final = 86400.0  # a number so near to now is a time, whatever it is called
_EVER_S: Final = 20 * 365 * 86400.0  # one that is called a time may be as far away as this
_AHEAD_S: Final = 1e12  # beyond any clock: how far ahead a time is, is judged here and not where it is read
_NOW_S: Final = 60.0  # as near to its arrival as this, a payload's own time may be used
_UNITS: Final = (  # by size: what a number of that size counts since 1970
    (1e9, 4e9, TimeUnit.S),
    (1e12, 4e12, TimeUnit.MS),
    (1e15, 4e15, TimeUnit.US),
    (1e18, 4e18, TimeUnit.NS),
)
_TIMES: Final = frozenset(
    {"ts", "time", "timestamp", "datetime", "date", "epoch", "seen", "updated", "changed", "boot"}
)
_IDENTIFIERS: Final = frozenset(
    {"id", "uid", "uuid", "mac", "serial", "version", "revision", "rev", "firmware", "schema", "pid", "port", "channel"}
)
_CLOCKS: Final = frozenset({"uptime", "ontime", "runtime"})
_SEQUENCES: Final = frozenset({"seq", "sequence", "seqno", "nonce", "msgid"})
_COUNTERS: Final = frozenset(
    {"total", "energy", "count", "counter", "today", "kwh", "wh", "pulses", "packets", "bytes", "odometer", "import"}
    | {"export", "consumption", "consumed", "produced", "cycles", "parts", "pieces"}
)
_ALWAYS_COUNTERS: Final = frozenset({"energy", "kwh", "odometer"})  # even where nothing was counted meanwhile
_FEW_RISES: Final = 3  # make a counter of what is called one
_MANY_RISES: Final = 20  # and of what is not
_SEQUENCE_STEPS: Final = 5
_CLOCK_RATES: Final = (1.0, 1e3, 1.0 / 60.0)  # counted seconds, milliseconds or minutes per second
_CLOCK_SLACK: Final = 0.05


class Role(StrEnum):
    """What a field is to an anomaly agent; the value says why all but the first two are left out."""

    MEASUREMENT = "measurement"
    COUNTER = "counter"
    TIME = "a time"
    CLOCK = "counts the time"
    SEQUENCE = "counts the messages"
    IDENTIFIER = "an identifier"
    TEXT = "text"

    @property
    def watched(self) -> bool:
        """Tell whether it is worth watching."""
        return self in {Role.MEASUREMENT, Role.COUNTER}


def words_of(name: str) -> list[str]:
    """Return the words of the last part of a dotted path, in lower case: `Wifi.lastSeen` gives last, seen."""
    return [word.lower() for word in _WORD.findall(name.rpartition(".")[2])]


class FieldStatistics:
    """One field over all messages of a topic, or, merged, of several topics. Times are seconds since the epoch."""

    __slots__ = (
        "_before", "_time_before", "addressable", "ahead_s", "behind_s", "elapsed_s", "falls", "high", "last_at",
        "low", "numbers", "numeric_texts", "ones", "rise", "rises", "steps", "texts", "time_unit", "times",
        "times_rise", "whole",
    )  # fmt: skip

    def __init__(self, *, addressable: bool = True) -> None:
        self.addressable = addressable  # whether its path leads to it: a key with a dot in it cannot be named
        self.numbers = self.texts = self.numeric_texts = 0
        self.low, self.high = float("inf"), float("-inf")
        self.steps = self.rises = self.falls = self.ones = 0
        self.rise = self.elapsed_s = 0.0
        self.whole = True
        self.times = 0
        self.time_unit: TimeUnit | None = None
        self.ahead_s, self.behind_s = float("-inf"), float("-inf")  # most that its time was after or before arrival
        self.times_rise = True
        self.last_at = 0.0
        self._before: float | None = None
        self._time_before: float | None = None

    @property
    def seen(self) -> int:
        """Return how often it came."""
        return self.numbers + self.texts

    @property
    def numeric(self) -> bool:
        """Tell whether it was a number every time, or text that reads as one."""
        return self.numbers > 0 or 0 < self.numeric_texts == self.texts

    def take(self, value: Scalar, at: float) -> None:
        """Note one value, which came at `at`."""
        if isinstance(value, str):
            self.texts += 1
            self._take_time(value, TimeUnit.ISO, at)
            if _NUMERIC_TEXT.fullmatch(value[:40]) is None:
                return
            self.numeric_texts += 1
            number = float(value[:40])
        else:
            self.numbers += 1
            number = float(value)
            if not isinstance(value, bool):
                for low, high, unit in _UNITS:
                    if low <= number <= high:
                        self._take_time(number, unit, at)
        self.low, self.high = min(self.low, number), max(self.high, number)
        self.whole = self.whole and number.is_integer()
        if self._before is not None:
            change = number - self._before
            self.steps += 1
            self.rises += change > 0
            self.falls += change < 0
            self.ones += change == 1
            self.rise += max(change, 0.0)
            self.elapsed_s += at - self.last_at
        self._before, self.last_at = number, at

    def _take_time(self, value: float | str, unit: TimeUnit, at: float) -> None:
        try:
            found = read_time(TimeSettings(path="", unit=unit, max_ahead_s=_AHEAD_S), value, at)
        except PayloadRejected:
            return
        if self.time_unit not in {None, unit}:
            return
        self.times, self.time_unit = self.times + 1, unit
        self.ahead_s, self.behind_s = max(self.ahead_s, found - at), max(self.behind_s, at - found)
        self.times_rise = self.times_rise and (self._time_before is None or found > self._time_before)
        self._time_before = found

    def merge(self, other: FieldStatistics) -> None:
        """Add what the same field was like in another topic."""
        for name in ("numbers", "texts", "numeric_texts", "steps", "rises", "falls", "ones", "rise", "elapsed_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.whole = self.whole and other.whole
        self.addressable = self.addressable and other.addressable
        if other.times and self.time_unit in {None, other.time_unit}:
            self.times, self.time_unit = self.times + other.times, other.time_unit
        self.ahead_s, self.behind_s = max(self.ahead_s, other.ahead_s), max(self.behind_s, other.behind_s)
        self.times_rise = self.times_rise and other.times_rise

    @property
    def tells_time(self) -> bool:
        """Tell whether it can serve as the readings' own time: it always came, rose, and was about now."""
        return 0 < self.times == self.seen and self.times_rise and max(self.ahead_s, self.behind_s) <= _NOW_S

    def role(self, name: str) -> Role:
        """Return what a field of this name is."""
        words = words_of(name)
        last = words[-1] if words else ""
        if 0 < self.times == self.seen:
            limit = _EVER_S if self.time_unit is TimeUnit.ISO or not _TIMES.isdisjoint(words) else _LEAP_S
            if max(self.ahead_s, self.behind_s) <= limit:
                return Role.TIME
        if not self.numeric:
            return Role.TEXT
        if not _CLOCKS.isdisjoint(words) or self._counts_time():
            return Role.CLOCK
        if self.whole and (not _IDENTIFIERS.isdisjoint(words) and self.rises + self.falls == 0):
            return Role.IDENTIFIER
        if last in _SEQUENCES or self._counts_messages():
            return Role.SEQUENCE
        return Role.COUNTER if self._counts(words) else Role.MEASUREMENT

    def _counts_time(self) -> bool:
        if self.falls or not self.whole or self.rises < _SEQUENCE_STEPS or self.elapsed_s <= 0:
            return False
        rate = self.rise / self.elapsed_s
        return any(abs(rate / one - 1) < _CLOCK_SLACK for one in _CLOCK_RATES) and self.rises == self.steps

    def _counts_messages(self) -> bool:
        return self.ones == self.steps >= _SEQUENCE_STEPS

    def _counts(self, words: list[str]) -> bool:
        if self.falls or self.low < 0:
            return False
        called = not _COUNTERS.isdisjoint(words)
        if called and (self.rises >= _FEW_RISES or not _ALWAYS_COUNTERS.isdisjoint(words)):
            return True
        return self.whole and self.rises >= _MANY_RISES
