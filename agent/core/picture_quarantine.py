"""Pictures refused while an alert was pending or firing: an operator can let them in, and take them out again."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from agent.core.picture_reference import Picture
from agent.core.quarantine import MARKS, MAX_ACCEPTED, MAX_ALERTS

MAX_PICTURES: Final = 16  # for each alert: how it began, and the newest
KEPT_FIRST: Final = 8  # of these


class PictureQuarantine:
    """The refused pictures of a stream's last alerts, and the marks of those that were accepted."""

    def __init__(self) -> None:
        self._alerts: OrderedDict[str, list[Picture]] = OrderedDict()
        self._pending: tuple[str, list[Picture]] | None = None
        self._accepted: OrderedDict[str, int] = OrderedDict()
        self._mark = 0

    @property
    def bytes(self) -> int:
        """Return the memory that the pictures take."""
        held = [*self._alerts.values(), *((self._pending[1],) if self._pending else ())]
        return sum(one.bytes for pictures in held for one in pictures)

    def keep(self, alert: str, picture: Picture | None, *, firing: bool) -> None:
        """Keep what a decision refused, if anything. One alert may be pending; once it fires it is one of the last."""
        if self._pending is None or self._pending[0] != alert:
            self._pending = alert, []
        pictures = self._pending[1]
        if firing:
            pictures = self._alerts.setdefault(alert, pictures)
            self._pending = None
            while len(self._alerts) > MAX_ALERTS:
                self._alerts.popitem(last=False)
        if picture is not None:
            if len(pictures) >= MAX_PICTURES:
                del pictures[KEPT_FIRST]
            pictures.append(picture)

    def release(self) -> None:
        """Let go what is kept for an alert that is pending: it came to nothing."""
        self._pending = None

    def held(self, alert: str) -> list[Picture]:
        """Return the pictures kept for an alert, oldest first; none if it is not one of the last."""
        return list(self._alerts.get(alert, ()))

    def knows(self, alert: str) -> bool:
        """Tell whether an alert is one of the last, or accepted."""
        return alert in self._alerts or alert in self._accepted

    def accepted(self, alert: str) -> int | None:
        """Return the mark of an accepted alert's pictures; None if it was not accepted, or forgotten again."""
        return self._accepted.get(alert)

    def accept(self, alert: str) -> int:
        """Note that an alert is accepted; return the mark for its pictures, 1 to MARKS: one that no other has."""
        taken = set(self._accepted.values())
        turns = (place % MARKS + 1 for place in range(self._mark, self._mark + MARKS))
        self._mark = next(mark for mark in turns if mark not in taken)
        self._accepted[alert] = self._mark
        while len(self._accepted) > MAX_ACCEPTED:
            self._accepted.popitem(last=False)
        return self._mark

    def forget(self, alert: str) -> None:
        """Note that an accepted alert was taken back; its pictures stay, so that it can be accepted again."""
        del self._accepted[alert]

    def snapshot(self) -> dict[str, Any]:
        """Return everything, as plain lists and arrays."""
        return {
            "alerts": [[alert, [one.packed() for one in pictures]] for alert, pictures in self._alerts.items()],
            "pending": [self._pending[0], [one.packed() for one in self._pending[1]]] if self._pending else None,
            "accepted": [[alert, mark] for alert, mark in self._accepted.items()],
            "mark": self._mark,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take it up again."""
        self._alerts = OrderedDict(
            (alert, [Picture.unpacked(one) for one in pictures]) for alert, pictures in state["alerts"]
        )
        pending = state["pending"]
        self._pending = None if pending is None else (pending[0], [Picture.unpacked(one) for one in pending[1]])
        self._accepted = OrderedDict((alert, mark) for alert, mark in state["accepted"])
        self._mark = state["mark"]
