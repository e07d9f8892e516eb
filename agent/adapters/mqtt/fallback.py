"""Several brokers: which one is tried next, and whether the first one is there again while another serves us."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.adapters.mqtt.broker import Endpoint

MAX_RETURN_S: Final = 3600.0


class Brokers:
    """The first broker and those to fall back on, in order. The network thread's.

    `reachable` tells, within some seconds, whether an address takes connections. Each `return_after_s` that is
    asked of the first one while another one serves us; after a return that failed the pause is doubled.
    """

    def __init__(
        self, addresses: Sequence[Endpoint], reachable: Callable[[Endpoint], bool], return_after_s: float
    ) -> None:
        self._addresses = tuple(addresses)
        self._reachable = reachable
        self._return_after_s = self._pause_s = return_after_s
        self._at = 0
        self._looked_at: float | None = None
        self._back = threading.Event()
        self._asking: threading.Thread | None = None
        self._returned = False

    def __len__(self) -> int:
        return len(self._addresses)

    @property
    def current(self) -> Endpoint:
        """Return the broker that serves us, or is tried next."""
        return self._addresses[self._at]

    @property
    def first(self) -> Endpoint:
        """Return the broker that we would rather have."""
        return self._addresses[0]

    @property
    def returning(self) -> bool:
        """Tell whether the first broker is there again, so that the one that serves us is to be left."""
        return self._at > 0 and self._back.is_set()

    def ended(self, *, lasted: bool, stay: bool) -> None:
        """Choose the next one: after a connection that `lasted` the first, after a failure the one behind.

        `stay`: the end was not the broker's fault.
        """
        if self.returning or lasted:
            self._returned = self.returning
            self._at = 0
        elif not stay:
            if self._returned and self._at == 0:
                self._pause_s = min(MAX_RETURN_S, 2 * self._pause_s)
            self._at = (self._at + 1) % len(self._addresses)
        if lasted and not self._returned:
            self._pause_s = self._return_after_s
        self._looked_at = None
        self._back.clear()

    def look(self, now: float) -> bool:
        """Ask for the first broker when it is time; return whether it is there again. `now`: a monotonic clock."""
        if self._at == 0:
            return False
        if self._looked_at is None:
            self._looked_at = now
        busy = self._asking is not None and self._asking.is_alive()
        if now - self._looked_at >= self._pause_s and not busy and not self._back.is_set():
            self._looked_at = now
            self._asking = threading.Thread(target=self._ask, name="fallback", daemon=True)
            self._asking.start()
        return self.returning

    def _ask(self) -> None:
        if self._reachable(self.first):
            self._back.set()
