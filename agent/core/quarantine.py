"""What was refused while an alert was pending or firing, kept so that an operator can let it in, and take it out again.

Nothing is allocated before the first alert. Who may enter the reference is not decided here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec
import numpy as np

from agent.core.types import F32, F64, I8, I64, Bools

MAX_WINDOWS: Final = 64  # for each alert: how it began, and the newest
KEPT_FIRST: Final = 32  # of these; without them the next such event would raise an alert where it begins
MAX_ALERTS: Final = 8  # of a stream, the newest
MAX_ACCEPTED: Final = 32  # alerts of a stream, the newest, that can be forgotten by their id
MARKS: Final = 255  # an entry's mark is one byte; 0 is for what entered by itself


class HasBytes(Protocol):
    """What is kept, and knows what it takes."""

    @property
    def bytes(self) -> int:
        """Return the memory that it takes."""
        ...


Kept = TypeVar("Kept", bound=HasBytes)
Change = TypeVar("Change")


class Held(msgspec.Struct, frozen=True):
    """One decision's refused windows. `channels` int64 [n]; `query` int8 [n, all views' dims].

    `refused` bool [n, views] tells which views did not enter. `values` float64 [n, 2] are the last value and the mean
    of the last 16, which the range of what is known must hold. `at` is the decision's time, s since the epoch, `row` of
    the grid the one that its windows end with, 0 where that is not known.
    """

    at: float
    channels: I64
    query: I8
    refused: Bools
    values: F64
    row: int = 0

    @property
    def bytes(self) -> int:
        """Return what it takes."""
        return sum(one.nbytes for one in (self.channels, self.query, self.refused, self.values))


class Accepted(msgspec.Struct, frozen=True):
    """What accepting an alert changed, to be taken back.

    `mark` is that of its entries in the reference. Score i float32 [n] was added to row `rows` int64 [n] of the
    calibration, counted from the stream's first. `low` and `high` float64 [changes, 4] are what widened the known
    range: channel, column (last value or mean), before, after.
    """

    mark: int
    rows: I64
    scores: F32
    low: F64
    high: F64


class LastAlerts(ABC, Generic[Kept, Change]):
    """What was kept for a stream's last alerts, and what accepting each changed, until it is forgotten."""

    most: int  # kept for each alert: how it began, and the newest
    kept_first: int  # of these

    def __init__(self) -> None:
        self._alerts: OrderedDict[str, list[Kept]] = OrderedDict()
        self._pending: tuple[str, list[Kept]] | None = None
        self._accepted: OrderedDict[str, Change] = OrderedDict()
        self._mark = 0
        self._bytes: int | None = 0  # None: to be counted anew

    @staticmethod
    @abstractmethod
    def pack(one: Kept) -> list[Any]:
        """Return what is kept as plain fields."""

    @staticmethod
    @abstractmethod
    def unpack(saved: list[Any]) -> Kept:
        """Take it up again."""

    @abstractmethod
    def marks_taken(self) -> set[int]:
        """Return the marks of the accepted alerts."""

    @property
    def bytes(self) -> int:
        """Return the memory that what is kept takes."""
        if self._bytes is None:
            held = [*self._alerts.values(), *((self._pending[1],) if self._pending else ())]
            self._bytes = sum(one.bytes for kept in held for one in kept)
        return self._bytes

    def keep(self, alert: str, one: Kept | None, *, firing: bool) -> None:
        """Keep what a decision refused, if anything. One alert may be pending; once it fires it is one of the last."""
        self._bytes = None
        if self._pending is None or self._pending[0] != alert:
            self._pending = alert, []
        kept = self._pending[1]
        if firing:
            kept = self._alerts.setdefault(alert, kept)
            self._pending = None
            while len(self._alerts) > MAX_ALERTS:
                self._alerts.popitem(last=False)
        if one is not None:
            if len(kept) >= self.most:
                del kept[self.kept_first]
            kept.append(one)

    def release(self) -> None:
        """Let go what is kept for an alert that is pending: it came to nothing."""
        if self._pending is not None:
            self._pending, self._bytes = None, None

    def held(self, alert: str) -> list[Kept]:
        """Return what is kept for an alert, oldest first; nothing if it is not one of the last."""
        return list(self._alerts.get(alert, ()))

    def knows(self, alert: str) -> bool:
        """Tell whether an alert is one of the last, or accepted."""
        return alert in self._alerts or alert in self._accepted

    def accepted(self, alert: str) -> Change | None:
        """Return what accepting an alert changed; None if it was not accepted, or forgotten again."""
        return self._accepted.get(alert)

    def next_mark(self) -> int:
        """Return a mark that no accepted alert has: 1 to MARKS, in turn. Entries may have it from long ago."""
        taken = self.marks_taken()
        self._mark = next(
            mark for mark in (place % MARKS + 1 for place in range(self._mark, self._mark + MARKS)) if mark not in taken
        )
        return self._mark

    def remember(self, alert: str, change: Change) -> None:
        """Remember what accepting an alert changed."""
        self._accepted[alert] = change
        while len(self._accepted) > MAX_ACCEPTED:
            self._accepted.popitem(last=False)

    def forget(self, alert: str) -> None:
        """Note that an accepted alert was taken back; what is kept stays, so that it can be accepted again."""
        del self._accepted[alert]

    def snapshot(self) -> dict[str, Any]:
        """Return everything but what accepting changed, as plain lists and arrays."""
        pending = self._pending
        return {
            "alerts": [[alert, [self.pack(one) for one in kept]] for alert, kept in self._alerts.items()],
            "pending": [pending[0], [self.pack(one) for one in pending[1]]] if pending else None,
            "mark": self._mark,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take it up again."""
        self._alerts = OrderedDict((alert, [self.unpack(one) for one in kept]) for alert, kept in state["alerts"])
        pending = state["pending"]
        self._pending = None if pending is None else (pending[0], [self.unpack(one) for one in pending[1]])
        self._mark, self._bytes = state["mark"], None


class Quarantine(LastAlerts[Held, Accepted]):
    """The refused windows of a stream's last alerts, and which of these alerts were accepted."""

    most, kept_first = MAX_WINDOWS, KEPT_FIRST

    @staticmethod
    def pack(one: Held) -> list[Any]:
        """Return a decision's windows as plain fields."""
        return fields(one)

    @staticmethod
    def unpack(saved: list[Any]) -> Held:
        """Take them up again."""
        return Held(*saved[:5], *map(int, saved[5:]))

    def marks_taken(self) -> set[int]:
        """Return the marks of the accepted alerts."""
        return {one.mark for one in self._accepted.values()}

    def accept(self, alert: str, accepted: Accepted) -> None:
        """Remember what accepting an alert changed."""
        self.remember(alert, accepted)

    def snapshot(self) -> dict[str, Any]:
        """Return everything, as plain lists and arrays."""
        return {**super().snapshot(), "accepted": [[alert, fields(one)] for alert, one in self._accepted.items()]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take it up again."""
        super().restore(state)
        self._accepted = OrderedDict((alert, Accepted(*one)) for alert, one in state["accepted"])


def fields(one: Held | Accepted) -> list[Any]:
    """Return a struct's fields in order."""
    return list(msgspec.structs.astuple(one))


def widened(known: F64, found: Iterable[Held], pick: np.ufunc) -> F64:
    """Widen `known` float64 [channels, 2] to what was found; return the changes, float64 [changes, 4].

    Each is channel, column, before, after. `pick` is np.fmin or np.fmax.
    """
    before = known.copy()
    for one in found:
        known[one.channels] = pick(known[one.channels], one.values)
    changed = np.argwhere(known != before)
    rows, columns = changed[:, 0], changed[:, 1]
    return np.column_stack([changed, before[rows, columns], known[rows, columns]]).astype(np.float64)


def narrowed(known: F64, changes: F64) -> None:
    """Take `widened` back where nothing has widened `known` float64 [channels, 2] further since."""
    rows, columns = changes[:, 0].astype(np.int64), changes[:, 1].astype(np.int64)
    same = known[rows, columns] == changes[:, 3]
    known[rows[same], columns[same]] = changes[same, 2]
