"""How often something may be done: so many times at once, and again as time passes."""

from __future__ import annotations


class Allowance:
    """A token bucket of `most`, full at first, into which `per_s` tokens flow. Times are of a monotonic clock, s."""

    def __init__(self, most: float, per_s: float) -> None:
        self._left = self._most = most
        self._per_s = per_s
        self._counted_at: float | None = None

    def take(self, now: float) -> bool:
        """Take one token; tell whether there was one."""
        if self._counted_at is not None:
            self._left = min(self._most, self._left + max(0.0, now - self._counted_at) * self._per_s)
        self._counted_at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def give_back(self) -> None:
        """Put back a token that was taken and not needed."""
        self._left = min(self._most, self._left + 1.0)
