"""Whether the broker still delivers: an echo on a topic of our own, now and then. Pings alone do not tell."""

from __future__ import annotations

from enum import StrEnum
from math import nan
from typing import Final

MAX_FAILURES: Final = 3  # in a row; to connect anew has not helped then
MAX_PATIENCE_S: Final = 3600.0


class Hearing(StrEnum):
    """What is known of our ears."""

    OFF = "off"  # not asked for
    UNPROVEN = "unproven"  # no echo has come back yet
    PROVEN = "proven"
    LOST = "lost"  # echoes came back once; the last one did not
    REFUSED = "refused"  # the broker forbids the echo


class Ears:
    """When to send an echo, and when its absence says that we are deaf. Times are of a monotonic clock, s.

    An echo is missing once nothing at all has come for `interval_s` after it: behind a backlog it may take its time,
    and a broker whose queue for us is full may drop it. 0 turns it off. Where no echo ever came back, access rules may
    forbid it silently: after MAX_FAILURES it is given up, and no connection is closed for it any more. Where one did,
    connections are closed after ever longer times, up to MAX_PATIENCE_S.
    """

    def __init__(self, interval_s: float) -> None:
        self.hearing = Hearing.UNPROVEN if interval_s else Hearing.OFF
        self.failures = 0  # in a row
        self.round_trip_s = nan
        self._interval_s = interval_s
        self._sent_at: float | None = None  # on this connection
        self._outstanding = False
        self._waiting_since = 0.0
        self._heard = False
        self._told_refused = False

    @property
    def hopeless(self) -> bool:
        """Tell whether connecting anew has not helped, though echoes came back once."""
        return self.hearing is Hearing.LOST and self.failures >= MAX_FAILURES

    @property
    def given_up(self) -> bool:
        """Tell whether echoes are not waited for any more, for none ever came back."""
        return self.hearing is Hearing.UNPROVEN and self.failures >= MAX_FAILURES

    def connected(self) -> None:
        """Begin with a new connection."""
        self._sent_at, self._outstanding = None, False
        if self.hearing is Hearing.REFUSED:
            self.hearing = Hearing.UNPROVEN

    def due(self, now: float) -> bool:
        """Tell whether to send an echo now."""
        if self.hearing in (Hearing.OFF, Hearing.REFUSED):
            return False
        return self._sent_at is None or now - self._sent_at >= self._interval_s

    def sent(self, now: float) -> None:
        """Note that an echo is on its way."""
        if self._heard or not self._outstanding:
            self._waiting_since = now
        self._sent_at, self._outstanding, self._heard = now, True, False

    def excused(self, now: float) -> None:
        """Note that something came, or that it is not the broker's fault if nothing does."""
        self._waiting_since, self._heard = now, True

    def echoed(self, now: float) -> None:
        """Note that the echo came back."""
        if self._outstanding and self._sent_at is not None:
            self.round_trip_s = now - self._sent_at
            self._outstanding, self._told_refused = False, False
            self.hearing, self.failures = Hearing.PROVEN, 0

    def refused(self) -> bool:
        """Note that the broker forbids the echo; tell whether that is to be said."""
        new, self._told_refused = not self._told_refused, True
        self.hearing, self._outstanding = Hearing.REFUSED, False
        return new

    def missing(self, now: float) -> bool:
        """Tell whether the echo should have come by now."""
        return self._outstanding and now - self._waiting_since >= self._patience_s

    def failed(self, now: float) -> bool:
        """Note a missing echo; tell whether to connect anew for it."""
        self.failures += 1
        if self.hearing is Hearing.PROVEN:
            self.hearing = Hearing.LOST
        self.excused(now)
        return not self.given_up

    @property
    def _patience_s(self) -> float:
        longer = 2.0 ** min(max(0, self.failures - MAX_FAILURES), 10)
        return min(self._interval_s * longer, max(MAX_PATIENCE_S, self._interval_s))
