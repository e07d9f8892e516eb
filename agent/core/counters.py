"""Counters become rates before anything looks at them: the increase since the last reading, for each step of the grid.

A value that falls was set back or has wrapped. Neither is news. Over a wrap it is counted; of what a counter counted
before it was set back nobody knows, so nothing is made of that reading.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

_WRAPS: Final = (2.0**16, 2.0**32, 2.0**64)
_CLOSE: Final = 0.125  # of the range: at most so much from the last value over the wrap to the new one


class _Count(msgspec.Struct):
    """A counter's last reading, and the largest rate it ever had."""

    value: float
    at: float
    most: float = 0.0


class Counters:
    """The counters among a stream's channels."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._counts: dict[str, _Count] = {}

    def rates(
        self, at: float, values: dict[str, float], period_s: float, *, even: bool, most_steps: float
    ) -> dict[str, float]:
        """Return the values with every counter replaced by its increase for each step of `period_s` seconds.

        A counter is left out at its first reading, after more than `most_steps` steps, where time went back, and where
        it fell other than over a wrap at a rate that it had before. `even`: readings lie on steps; else they come at
        any time, and early ones count for a whole step.
        """
        made = dict(values)
        for name in self.names:
            value = made.pop(name, None)
            if value is None:
                continue
            count = self._counts.get(name)
            if count is None:
                self._counts[name] = _Count(value, at)
                continue
            steps = (at - count.at) / period_s
            before, count.value, count.at = count.value, value, at
            steps = float(round(steps)) if even else max(1.0, steps) if steps > 0 else 0.0
            if not 0.0 < steps <= most_steps:
                continue
            rate = (value - before) / steps
            if rate >= 0:
                count.most = max(count.most, rate)
                made[name] = rate
                continue
            over = _over_wrap(before, value)
            if over is not None and over / steps <= count.most:
                made[name] = over / steps
        return made

    def snapshot(self) -> dict[str, Any]:
        """Return the last readings."""
        return {name: [count.value, count.at, count.most] for name, count in self._counts.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take them up again."""
        self._counts = {name: _Count(*count) for name, count in state.items()}


def _over_wrap(before: float, value: float) -> float | None:
    """Return the increase of a counter that fell from just below the end of its range, None if it was not there."""
    for wrap in _WRAPS:
        if before < wrap:
            return value + wrap - before if 0 <= value + wrap - before <= _CLOSE * wrap else None
    return None
