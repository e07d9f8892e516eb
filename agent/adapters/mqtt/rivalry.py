"""Two clients with one client id: the broker ends the older connection whenever the other one connects.

MQTT 5 says so when it happens. MQTT 3.1.1 does not: there it shows in connections that end without a word soon after
they were accepted. Times are of a monotonic clock, and arguments.
"""

from __future__ import annotations

from typing import Final

TAKEN_OVER: Final = 142  # MQTT 5, section 3.14.2.1: another connection has begun with the same client id
SOON_S: Final = 5.0
SUSPICIOUS: Final = 3  # connections in a row that ended soon and without a word
CALM_S: Final = 120.0  # a connection that lasts so long is not fought for
MAX_YIELD_S: Final = 8.0  # ready again within 10 s of a rival's end; less than CALM_S: neither has the id for that long


class Rivalry:
    """Tells whether another client fights us for our client id, and how long to leave it the field."""

    def __init__(self) -> None:
        self._contested = False
        self._in_row = 0
        self._opened_at: float | None = None

    def contested(self, now: float) -> bool:
        """Tell whether another client uses our id. It does no longer once a connection has lasted."""
        return self._contested and not self._calm(now)

    def opened(self, now: float) -> None:
        """Note that the broker has accepted us."""
        self._opened_at = now

    def ended(self, now: float, *, taken_over: bool, wordless: bool) -> None:
        """Note the end of an attempt: whether the broker named a rival, or ended a connection without a word."""
        if self._opened_at is None:
            return  # an attempt that failed tells nothing of a rival
        calm, lasted_s = self._calm(now), now - self._opened_at
        self._opened_at = None
        if calm:
            self._contested, self._in_row = False, 0
        if taken_over or (wordless and lasted_s < (CALM_S if self._contested else SOON_S)):
            self._in_row += 1
            self._contested = self._contested or taken_over or self._in_row >= SUSPICIOUS
        elif not self._contested:
            self._in_row = 0

    def yield_s(self, now: float) -> float:
        """Return up to how long the next attempt should wait so that the two do not flap, 0 without a rival."""
        return min(MAX_YIELD_S, 2.0**self._in_row) if self.contested(now) else 0.0

    def _calm(self, now: float) -> bool:
        return self._opened_at is not None and now - self._opened_at >= CALM_S
