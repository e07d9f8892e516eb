"""How often a stream decides where nobody said so: often enough to miss nothing, seldom enough for a small device."""

from __future__ import annotations

from enum import StrEnum
from math import ceil
from typing import Final

from agent.core.views import SHORTEST_SPAN

BUSY_PER_S: Final = 20.0  # decisions of one stream; each costs a small device a few milliseconds
ABOUT: Final = 1.01  # times that: no measured rate is a round number


class Steps(StrEnum):
    """In place of a number of grid steps between decisions."""

    AUTO = "auto"


def pace(period_s: float) -> int:
    """Return the grid steps between decisions for a period, in s: about 20 decisions a second at most.

    But never so many that something lies between two of the shortest windows, that no decision looks at.
    """
    return ceil(max(1.0, min(SHORTEST_SPAN, 1.0 / (BUSY_PER_S * ABOUT) / period_s)))
