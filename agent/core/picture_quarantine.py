"""Pictures refused while an alert was pending or firing: an operator can let them in, and take them out again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from agent.core.picture_reference import Picture
from agent.core.quarantine import LastAlerts

MAX_PICTURES: Final = 16  # for each alert: how it began, and the newest
KEPT_FIRST: Final = 8  # of these


class PictureQuarantine(LastAlerts[Picture, int]):
    """The refused pictures of a stream's last alerts, and the marks of those that were accepted."""

    most, kept_first = MAX_PICTURES, KEPT_FIRST

    @staticmethod
    def pack(one: Picture) -> list[Any]:
        """Return a picture's fields."""
        return one.packed()

    @staticmethod
    def unpack(saved: list[Any]) -> Picture:
        """Take it up again."""
        return Picture.unpacked(saved)

    def marks_taken(self) -> set[int]:
        """Return the marks of the accepted alerts."""
        return set(self._accepted.values())

    def accept(self, alert: str) -> int:
        """Note that an alert is accepted; return the mark for its pictures, 1 to MARKS: one that no other has."""
        mark = self.next_mark()
        self.remember(alert, mark)
        return mark

    def pictures(self) -> dict[float, Picture]:
        """Return the pictures that are kept for alerts, by the time at which they came."""
        pending = [] if self._pending is None else self._pending[1]
        return {one.at: one for kept in (*self._alerts.values(), pending) for one in kept}

    def begin_after(self, old: PictureQuarantine, known: Mapping[float, Picture]) -> None:
        """Know of the alerts that another one has accepted, and go on with its marks.

        What that keeps of alerts is taken where it is `known`, by time, to whom this one belongs.
        """
        self.restore({**old.snapshot(), "alerts": [], "pending": None})
        for alert, kept in old._alerts.items():
            held = [known[one.at] for one in kept if one.at in known]
            if held:
                self._alerts[alert] = held
        if old._pending is not None:
            alert, kept = old._pending
            self._pending = alert, [known[one.at] for one in kept if one.at in known]

    def snapshot(self) -> dict[str, Any]:
        """Return everything, as plain lists and arrays."""
        return {**super().snapshot(), "accepted": [[alert, mark] for alert, mark in self._accepted.items()]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take it up again."""
        super().restore(state)
        self._accepted = OrderedDict((alert, mark) for alert, mark in state["accepted"])
