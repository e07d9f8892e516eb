"""Whether this machine's clock can be right, and when it is set.

A Pi has no battery for its clock: it begins in 1970, or where it was switched off, and jumps once the network tells
the time.
"""

from __future__ import annotations

from time import CLOCK_BOOTTIME, clock_gettime, time
from typing import TYPE_CHECKING, Final

from agent.core.types import CLOCK_NOT_SET_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STEP_S: Final = 60.0  # less is what a clock is corrected by while it runs


class Clock:
    """Compares the wall clock (s since the epoch) with one that nobody sets and that goes on while the machine sleeps.

    `latest` is a time that is known to be past.
    """

    def __init__(
        self,
        latest: float = 0.0,
        wall: Callable[[], float] = time,
        steady: Callable[[], float] = lambda: clock_gettime(CLOCK_BOOTTIME),
    ) -> None:
        self._wall, self._steady = wall, steady
        self._latest = max(latest - STEP_S, CLOCK_NOT_SET_S)
        self._offset = wall() - steady()

    @property
    def wrong(self) -> bool:
        """Tell whether the clock shows a time that is past for certain."""
        return self._wall() < self._latest

    def stepped(self) -> float:
        """Return by how many seconds the clock was set since this was asked last, 0.0 if it was not."""
        offset = self._wall() - self._steady()
        step = offset - self._offset
        if abs(step) < STEP_S:
            return 0.0
        self._offset = offset
        if step < 0:
            self._latest = CLOCK_NOT_SET_S  # it was ahead, and so may be what was written then
        return step


def last_written(directory: Path) -> float:
    """Return when a file in a directory was last written (s since the epoch), 0.0 if that cannot be told."""
    try:
        return max((path.stat().st_mtime for path in directory.iterdir()), default=0.0)
    except OSError:
        return 0.0
