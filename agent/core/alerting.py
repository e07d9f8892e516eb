"""The life of an alert: one table of states, and what is published on each transition.

Everything that decides whether an alert begins or ends is in TRANSITIONS; nothing here knows scores or topics.
"""

from __future__ import annotations

import hashlib
from datetime import UTC
from enum import StrEnum
from typing import Any, Final

import msgspec

from agent.core.quiet import QuietHours, QuietSpan
from agent.core.types import Budget, Change, Duration, Mode, Settings


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


class FrozenPolicy(StrEnum):
    """Whether values that no longer change are an anomaly."""

    ALERT = "alert"
    IGNORE = "ignore"


WEEKLY: Final = Budget(count=1, per_s=7 * 86400.0, text="1 per week")
THREE_SIGMA: Final = Budget(count=1, per_decisions=1000.0, text="1 per 1000 decisions")


class AlertSettings(Settings, frozen=True):
    """When an anomaly becomes an alert and when it ends. `min_change`: least deviation per channel that may alarm.

    `false_alarms` None: what is usual for the mode, see `budget_for`.
    """

    false_alarms: Budget | None = None
    after: int = 2
    clear_after: int = 3
    cooldown_s: Duration = 300.0
    severity: Severity = Severity.WARNING
    direction: Direction = Direction.BOTH
    frozen: FrozenPolicy = FrozenPolicy.ALERT
    min_change: dict[str, Change] = msgspec.field(default_factory=dict)
    quiet_hours: tuple[QuietSpan, ...] = ()
    zone: str = "UTC"  # of the quiet hours

    def budget_for(self, mode: Mode) -> Budget:
        """Return the budget: as configured, else 1 per week, or for `hold` the three-sigma limit of control charts."""
        return self.false_alarms or (THREE_SIGMA if mode is Mode.HOLD else WEEKLY)


class SilenceSettings(Settings, frozen=True):
    """A stream with no message for `after_s` seconds, while the broker is connected, is an alert of its own kind."""

    after_s: Duration | None = None


class AlertKind(StrEnum):
    """What an alert is about."""

    ANOMALY = "anomaly"
    FROZEN = "frozen"
    BLACK = "black"
    WHITE = "white"
    COVERED = "covered"
    BLURRED = "blurred"
    SILENT = "silent"


class AlertState(StrEnum):
    """Prometheus's words."""

    INACTIVE = "inactive"
    PENDING = "pending"
    FIRING = "firing"


class AlertEvent(StrEnum):
    """What subscribers are told."""

    RAISED = "raised"
    UPDATED = "updated"
    CLEARED = "cleared"


class Observation(StrEnum):
    """What one decision says: odd or normal, and whether often enough in a row; or what the operator says: over."""

    ODD = "odd"
    ODD_ENOUGH = "odd enough"
    NORMAL = "normal"
    NORMAL_ENOUGH = "normal enough"
    OVER = "over"


_I, _P, _F = AlertState.INACTIVE, AlertState.PENDING, AlertState.FIRING
TRANSITIONS: Final[dict[tuple[AlertState, Observation], tuple[AlertState, AlertEvent | None]]] = {
    (_I, Observation.ODD): (_P, None),
    (_I, Observation.ODD_ENOUGH): (_F, AlertEvent.RAISED),
    (_I, Observation.NORMAL): (_I, None),
    (_I, Observation.NORMAL_ENOUGH): (_I, None),
    (_I, Observation.OVER): (_I, None),
    (_P, Observation.ODD): (_P, None),
    (_P, Observation.ODD_ENOUGH): (_F, AlertEvent.RAISED),
    (_P, Observation.NORMAL): (_I, None),
    (_P, Observation.NORMAL_ENOUGH): (_I, None),
    (_P, Observation.OVER): (_I, None),
    (_F, Observation.ODD): (_F, None),
    (_F, Observation.ODD_ENOUGH): (_F, None),
    (_F, Observation.NORMAL): (_F, None),
    (_F, Observation.NORMAL_ENOUGH): (_I, AlertEvent.CLEARED),
    (_F, Observation.OVER): (_I, AlertEvent.CLEARED),
}


UPDATE_EVERY_S: Final = 60.0
MAX_SNOOZE_S: Final = 366 * 86400.0


class Ending(StrEnum):
    """Why an alert is over."""

    NORMAL = "normal"
    ACCEPTED = "accepted"
    RELEARNT = "relearnt"
    REMOVED = "removed"


class AlertTransition(msgspec.Struct, frozen=True):
    """A change that subscribers are told. Times in s since the epoch; `ended_at` only when cleared, as is `ending`."""

    id: str
    kind: AlertKind
    event: AlertEvent
    started_at: float
    at: float
    ended_at: float | None = None
    ending: Ending = Ending.NORMAL


def alert_id(agent: str, stream: str, kind: AlertKind, started_at: float) -> str:
    """Return an id that a replay or a restart gives again: 16 hex digits of what the alert is and when it began."""
    name = f"{agent}\n{stream}\n{kind}\n{round(started_at * 1000)}"
    return hashlib.sha256(name.encode()).hexdigest()[:16]


class AlertMachine:
    """The alert of one kind on one stream."""

    def __init__(
        self, settings: AlertSettings, *, agent: str, stream: str, kind: AlertKind, quiet: QuietHours | None = None
    ) -> None:
        self.kind = kind
        self.state = AlertState.INACTIVE
        self.id = ""
        self.started_at = 0.0
        self.last_at = 0.0
        self._settings = settings
        self._quiet = quiet or QuietHours((), UTC)
        self._agent, self._stream = agent, stream
        self._leading = ""  # the part that subscribers were told of, and when
        self._told_at = 0.0
        self._in_row = 0  # odd decisions while not firing, normal ones while firing
        self._ended_at = float("-inf")
        self.snoozed_until = 0.0  # s since the epoch, by the agent's own clock

    def observe(self, at: float, *, odd: bool, leading: str = "") -> AlertTransition | None:
        """Take one decision's outcome; return what is to be published, if anything.

        An alert does not begin within the cooldown of the last one's end, nor in quiet hours. While one fires, an
        update is due when the `leading` part of an odd decision is another than was told, at most once a minute.
        """
        self.last_at = at
        firing = self.state is AlertState.FIRING
        cooldown_s = self._settings.cooldown_s
        if odd and not firing and cooldown_s > 0 and at < self._ended_at + cooldown_s:
            odd = False
        if odd and not firing and self._quiet.cover(at):
            odd = False
        if odd != firing:
            if self._in_row == 0 and not firing:
                self.started_at = at
            self._in_row += 1
        else:
            self._in_row = 0
        enough = self._in_row >= (self._settings.clear_after if firing else self._settings.after)
        if odd:
            seen = Observation.ODD_ENOUGH if enough else Observation.ODD
        else:
            seen = Observation.NORMAL_ENOUGH if enough else Observation.NORMAL
        self.state, event = TRANSITIONS[self.state, seen]
        if event is None:
            if not (firing and odd) or leading == self._leading or at < self._told_at + UPDATE_EVERY_S:
                return None
            event = AlertEvent.UPDATED
        self._leading, self._told_at = leading, at
        if event is AlertEvent.UPDATED:
            return AlertTransition(self.id, self.kind, event, self.started_at, at)
        self._in_row = 0
        ended_at = None
        if event is AlertEvent.RAISED:
            self.id = alert_id(self._agent, self._stream, self.kind, self.started_at)
        else:
            self._ended_at = ended_at = at
        return AlertTransition(self.id, self.kind, event, self.started_at, at, ended_at)

    @property
    def progress(self) -> tuple[AlertState, int]:
        """Return the state and how far the next one has come: what a restart must find again."""
        return self.state, self._in_row

    def rewind(self, at: float) -> None:
        """Go on from `at`, earlier than before: the clock of the data was set back."""
        self.last_at = float("-inf")
        self._ended_at, self._told_at = min(self._ended_at, at), min(self._told_at, at)

    def snapshot(self) -> dict[str, Any]:
        """Return the exact state, for the transaction that also holds the outgoing message."""
        return {
            "state": self.state.value,
            "id": self.id,
            "started_at": self.started_at,
            "last_at": self.last_at,
            "leading": self._leading,
            "told_at": self._told_at,
            "in_row": self._in_row,
            "ended_at": self._ended_at,
            "snoozed_until": self.snoozed_until,
        }

    def would_be_missed(self, saved: dict[str, Any]) -> bool:
        """Tell whether something would be missed after a restart with the `saved` snapshot.

        While nothing fires, a later `last_at` alone is not: a stream's own clock is saved with what it has learnt, and
        keeps out what came before. An earlier one is, for the clock of the data was set back.
        """
        now = self.snapshot()
        if now["last_at"] > saved.get("last_at", now["last_at"]) and self.state is not AlertState.FIRING:
            saved = {**saved, "last_at": now["last_at"]}
        return now != saved

    def restore(self, state: dict[str, Any]) -> None:
        """Take the state up again."""
        self.state = AlertState(state["state"])
        self.id, self.started_at, self.last_at = state["id"], state["started_at"], state["last_at"]
        self._leading, self._told_at = state["leading"], state["told_at"]
        self._in_row, self._ended_at = state["in_row"], state["ended_at"]
        self.snoozed_until = state.get("snoozed_until", 0.0)  # not in states of version 0.1

    @property
    def told_at(self) -> float:
        """Return when an alert last began, changed or ended, in the time of the data; 0 if there was none."""
        return max(self._told_at, self._ended_at)

    @property
    def current_id(self) -> str:
        """Return the id of the alert that fires, or the one that a pending alert will have."""
        if self.state is AlertState.PENDING:
            return alert_id(self._agent, self._stream, self.kind, self.started_at)
        return self.id

    def is_quiet(self, at: float) -> bool:
        """Tell whether a time of the data lies in quiet hours."""
        return self._quiet.cover(at)

    def may_begin(self, now: float) -> bool:
        """Tell whether an alert may begin at `now` (s since the epoch, the agent's clock): whether none is snoozed."""
        return now >= self.snoozed_until

    def end(self, ending: Ending) -> AlertTransition | None:
        """End what is pending or firing, because the operator said so; return what is to be published, if anything.

        The end is the last decision's time, and a cooldown begins with it.
        """
        self.state, event = TRANSITIONS[self.state, Observation.OVER]
        self._in_row = 0
        if event is None:
            return None
        self._ended_at = at = self.last_at
        return AlertTransition(self.id, self.kind, event, self.started_at, at, at, ending)
