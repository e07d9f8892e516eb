"""Who holds a state directory: one process at a time, found by others through its lock file."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Final

import msgspec

from agent.errors import StateError

_NAME: Final = "lock"
_MAX_BYTES: Final = 1000


class Holder(msgspec.Struct, frozen=True):
    """The process that holds a state directory. `listen` is where an agent is asked; a replay is not, and has none.

    `token` lets in who may read the directory, where the agent asks others for a password.
    """

    pid: int
    listen: str = ""
    token: str = ""


class StateLock:
    """Holds a directory for this process; the system lets it go with the process. Raises StateError if it is held."""

    def __init__(self, directory: Path) -> None:
        self._file = os.fdopen(os.open(directory / _NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab", 0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            held = None
            with contextlib.suppress(PermissionError):
                held = holder(directory)
            by = "" if held is None else f" by process {held.pid}"
            raise StateError(
                f"{directory}: expected a state directory of our own, found it in use{by}; "
                "stop the other agent or replay that uses it"
            ) from error
        self._tell(Holder(os.getpid()))

    def listens(self, address: str, token: str = "") -> None:
        """Tell others that this is an agent, which they find at HOST:PORT and may ask to reload."""
        with contextlib.suppress(OSError):
            os.fchmod(self._file.fileno(), 0o600)
        self._tell(Holder(os.getpid(), address, token))

    def close(self) -> None:
        """Let the directory go."""
        self._file.close()

    def _tell(self, holder: Holder) -> None:
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same, but nobody can ask for a reload
            self._file.truncate(0)
            self._file.write(msgspec.json.encode(holder))


def holder(directory: Path) -> Holder | None:
    """Return who holds a state directory, None if nobody does. Raises PermissionError if we may not know.

    The lock itself is not tried: that would take it from an agent that starts just now. A process that has the file
    open holds it; a number left behind by a crash, or from another container, belongs to one that has not.
    """
    path = directory / _NAME
    try:
        with path.open("rb") as file:
            found = msgspec.json.decode(file.read(_MAX_BYTES), type=Holder)
        if any(_same(path, opened) for opened in Path(f"/proc/{found.pid}/fd").iterdir()):
            return found
    except PermissionError:
        raise
    except (OSError, ValueError):  # a decoder's error is a ValueError too
        pass
    return None


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except FileNotFoundError:  # closed since, or no file
        return False
