"""Looks whether an encoder bundle in use was replaced; loads and checks a new version in a thread of its own.

What does not pass is refused, once, and nothing changes.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from agent.bundle import path_of
from agent.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from agent.adapters.telemetry import Telemetry
    from agent.adapters.tflite import TfliteEncoder, TflitePictureEncoder
    from agent.bundle import Bundle

logger = logging.getLogger(__name__)

LOOK_S: Final = 2.0  # between two looks; what has changed must then lie still until the next one
_MAX_FILES: Final = 100  # of a bundle, that are looked at

Mark: TypeAlias = tuple[tuple[str, int, int, int], ...]


class NewVersion(msgspec.Struct, frozen=True):
    """A version that was checked. `choices` are answers that the state directory has to keep."""

    name: str
    bundle: Bundle
    encoder: TfliteEncoder | TflitePictureEncoder
    choices: dict[str, str]


class EncoderWatch:
    """Watches the bundles that `names` returns. `load` loads and checks one, or raises BundleError.

    `wake` lets the worker look.
    """

    def __init__(
        self,
        names: Callable[[], Iterable[str]],
        load: Callable[[str], NewVersion],
        wake: Callable[[], None],
        telemetry: Telemetry,
    ) -> None:
        self._names, self._load, self._wake, self._telemetry = names, load, wake, telemetry
        self._known: dict[str, Mark] = {name: mark_of(path_of(name)) for name in names()}
        self._changed: dict[str, Mark] = {}
        self._looked_at: float | None = None
        self._found: NewVersion | None = None
        self._busy = False

    def look(self, now: float) -> None:
        """Look, if it is time to; `now`: a monotonic clock. Called in the main thread."""
        if self._busy or (self._looked_at is not None and now - self._looked_at < LOOK_S):
            return
        self._looked_at = now
        for name in sorted(self._names()):
            mark = mark_of(path_of(name))
            if mark == self._known.setdefault(name, mark):
                self._changed.pop(name, None)
            elif mark != self._changed.get(name):
                self._changed[name] = mark  # it may still be written
            else:
                self._known[name] = mark
                self._busy = True
                threading.Thread(target=self._read, args=(name,), name="encoder", daemon=True).start()
                return

    def take(self) -> NewVersion | None:
        """Return a new version that passed, if there is one. Called by the worker."""
        found, self._found = self._found, None
        if found is not None:
            self._busy = False
        return found

    def refuse(self, name: str, error: Exception) -> None:
        """Say that a version is not taken, and why."""
        self._telemetry.bundles_refused.inc()
        logger.error("encoder %s: the new version is refused, and the one in use stays: %s", name, error)

    def _read(self, name: str) -> None:
        try:
            self._found = self._load(name)
        except BundleError as error:
            self.refuse(name, error)
            self._busy = False
        except Exception as error:
            logger.exception("a bug in this program ended the check of an encoder")
            self.refuse(name, error)
            self._busy = False
        else:
            self._wake()


def mark_of(path: Path) -> Mark:
    """Return what changes when a bundle is replaced: of each of its files name, inode, size and time."""
    try:
        if path.is_file():
            return (_marked("", path.stat()),)
        with os.scandir(path) as entries:
            found = [_marked(one.name, one.stat()) for one in entries]
    except (OSError, ValueError):
        return ()
    return tuple(sorted(found)[:_MAX_FILES])


def _marked(name: str, stat: os.stat_result) -> tuple[str, int, int, int]:
    return name, stat.st_ino, stat.st_size, stat.st_mtime_ns
