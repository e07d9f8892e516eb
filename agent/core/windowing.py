"""A regular grid from irregular samples, and the ring of raw values that windows are cut from."""

from __future__ import annotations

from agent.core.types import Duration, Settings


class GridSettings(Settings):
    """`period_s` None: measured while learning. `carry_limit`: grid steps a missing value is carried forward."""

    period_s: Duration | None = None
    carry_limit: int = 5
