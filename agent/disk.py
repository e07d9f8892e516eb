"""Writing to the state directory, and going on without it: a full or read-only disk must neither end nor deafen us."""

from __future__ import annotations

import logging
import sqlite3
from time import monotonic
from typing import TYPE_CHECKING, Final

from agent.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.adapters.store import Store
    from agent.adapters.telemetry import Telemetry

logger = logging.getLogger(__name__)

RETRY_S: Final = 5.0
_COMPLAIN_S: Final = 60.0


class Disk:
    """Tells of each write whether it worked. `troubled`: what was to be written is in memory alone. The worker's."""

    def __init__(self, store: Store, telemetry: Telemetry) -> None:
        self._store, self._telemetry = store, telemetry
        self._complained_at = -_COMPLAIN_S
        self._tried_at = monotonic()
        self.troubled = False
        if store.failure is not None:
            self._failed(store.failure)

    def write(self, write: Callable[[], None]) -> bool:
        """Carry out a write; where the database refuses it, in memory: then it counts as done, until `mend`."""
        try:
            write()
        except (OSError, sqlite3.Error) as error:
            self._failed(error)
            if isinstance(error, OSError) or self._store.detached:
                return False
            self._store.detach()
            return self.write(write)
        return True

    def mend(self, *, at_once: bool = False) -> bool:
        """Try the disk again, every few seconds while there is trouble; tell whether that has just ended."""
        now = monotonic()
        if not self.troubled or (now - self._tried_at < RETRY_S and not at_once):
            return False
        self._tried_at = now
        try:
            if self._store.detached:
                self._store.attach()
            self._store.probe()
        except (OSError, sqlite3.Error, StateError) as error:
            self._failed(error)
            return False
        self.troubled = False
        return True

    def _failed(self, error: Exception) -> None:
        self.troubled = True
        self._telemetry.state_errors.inc()
        now = monotonic()
        if now - self._complained_at >= _COMPLAIN_S:
            self._complained_at = now
            logger.error("cannot write the state directory: %s; going on in memory, and trying again", error)
