"""The life of an alert: one table of states, and what is published on each transition."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from agent.core.types import Budget, Duration, Settings


class Severity(StrEnum):
    """How loud an alert is."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Direction(StrEnum):
    """Which side of the expected range may alarm."""

    BOTH = "both"
    UP = "up"
    DOWN = "down"


class AlertSettings(Settings):
    """When an anomaly becomes an alert and when it ends. `min_change`: smallest deviation per channel that may alarm."""

    false_alarms: Budget = Budget(count=1, per_s=7 * 86400.0, text="1 per week")
    after: int = 2
    clear_after: int = 3
    cooldown_s: Duration = 300.0
    severity: Severity = Severity.WARNING
    direction: Direction = Direction.BOTH
    min_change: dict[str, float] = msgspec.field(default_factory=dict)


class SilenceSettings(Settings):
    """A stream with no message for `after_s` seconds, while the broker is connected, is an alert of its own kind."""

    after_s: Duration | None = None
