"""Quiet hours: spans of the day in which no alert begins. What zone a day is of is an argument; no clock is read."""

from __future__ import annotations

from datetime import datetime, tzinfo

from agent.core.types import Settings


class QuietSpan(Settings, frozen=True):
    """From one minute of the day up to another, of the next day if it is the smaller one."""

    begin: int
    end: int

    def covers(self, minute: int) -> bool:
        """Tell whether a minute of the day lies in it."""
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


class QuietHours:
    """The quiet spans of a stream, by the clocks of a zone."""

    def __init__(self, spans: tuple[QuietSpan, ...], zone: tzinfo) -> None:
        self._spans, self._zone = spans, zone

    def cover(self, at: float) -> bool:
        """Tell whether a time, in s since the epoch, lies in one of them."""
        if not self._spans:
            return False
        local = datetime.fromtimestamp(at, self._zone)
        return any(span.covers(60 * local.hour + local.minute) for span in self._spans)
