"""What other threads ask of the network thread, and how they wake it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from agent.adapters.mqtt.events import Token
    from agent.adapters.mqtt.subscriptions import Subscription
    from agent.ports import InboundMessage


class Publication(msgspec.Struct, frozen=True):
    """One message to publish; `token` names it to whoever handed it over. Correlation data: MQTT 5 only."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    token: Token
    correlation_data: bytes | None = None


class Orders:
    """Queues that any thread may append to and the network thread empties."""

    def __init__(self) -> None:
        self.acknowledgements: deque[InboundMessage] = deque()
        self.publications: deque[Publication] = deque()
        self.subscriptions: deque[list[Subscription]] = deque()
        self.stopping = threading.Event()
        self._woken = False
        self._near: socket.socket | None = None
        self._far: socket.socket | None = None

    def open(self) -> None:
        """Make the way to wake; orders given before are not lost."""
        self._near, self._far = socket.socketpair()
        self._near.settimeout(0)
        self._far.settimeout(0)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when something was ordered."""
        assert self._near is not None
        return self._near.fileno()

    def wake(self) -> None:
        """Wake the network thread; call after appending. A wake is a system call: one at a time is under way."""
        if not self._woken and self._far is not None:
            self._woken = True
            with contextlib.suppress(OSError):  # closed: nobody is left to wake
                self._far.send(b"\0")

    def rest(self) -> None:
        """Take the wake-up back; call before emptying the queues, so that none is missed."""
        assert self._near is not None
        with contextlib.suppress(BlockingIOError):
            self._near.recv(64)
        self._woken = False

    def close(self) -> None:
        """Free the descriptors."""
        for end in (self._near, self._far):
            if end is not None:
                end.close()
