"""Sends echoes on one connection after another, knows them again, and says what their absence means."""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, Final

from agent.adapters.mqtt.ears import Hearing

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.adapters.mqtt.ears import Ears
    from agent.adapters.mqtt.frames import FrameReader

logger = logging.getLogger(__name__)

STALLED_S: Final = 5.0  # between two looks: we were not running, and cannot blame the broker


class DeafError(Exception):
    """The broker keeps the connection and delivers nothing."""


class Echo:
    """Echoes on `topic`, for the network thread; `publish` sends a payload there."""

    def __init__(self, topic: str, ears: Ears, publish: Callable[[bytes], None]) -> None:
        self.topic = topic
        self._ears = ears
        self._publish = publish
        self._payload = b""
        self._came = 0
        self._looked_at = 0.0

    def connected(self, now: float) -> None:
        """Begin with a new connection, whose subscriptions have been ordered."""
        self._came, self._looked_at = 0, now
        self._ears.connected()

    def look(self, now: float, reader: FrameReader, *, in_flight: bool, idle: bool) -> None:
        """Send an echo if it is time. `in_flight`: the broker has yet to take the last one, which is sent again.

        `idle`: not listening to the broker is our own doing.
        Raises DeafError if the connection is to be given up.
        """
        ears = self._ears
        stalled = now - self._looked_at > STALLED_S
        self._looked_at = now
        if reader.publications != self._came or reader.owed or idle or stalled:
            self._came = reader.publications
            ears.excused(now)
        elif ears.missing(now):
            given_up = ears.given_up
            if ears.failed(now):
                raise DeafError(
                    f"{self.topic} brought nothing back: the broker keeps the connection and delivers nothing"
                )
            if not given_up:
                logger.warning(
                    "no echo ever came back on %s: if access rules forbid it, allow it or set broker.echo: 0s; "
                    "no connection is given up for it any more",
                    self.topic,
                )
        if ears.due(now):
            if not in_flight:
                self._payload = secrets.token_hex(8).encode()
                self._publish(self._payload)
            ears.sent(now)

    def heard(self, payload: bytes, now: float) -> None:
        """Take what came on the topic; another agent of our name by mistake may speak there too."""
        if payload == self._payload:
            recovered = self._ears.hearing is Hearing.LOST
            self._ears.echoed(now)
            if recovered:
                logger.warning("%s brings back what is sent again", self.topic)

    def refused(self, reason: str) -> None:
        """Note that the broker forbids it, and say so once."""
        if self._ears.refused():
            logger.warning(
                "the broker refused %s: %s; whether it delivers is not known: allow it or set broker.echo: 0s",
                self.topic,
                reason,
            )
