"""What `redshank status` and `redshank reload` do: find the agent that runs with a configuration, and ask it."""

from __future__ import annotations

import contextlib
import os
import signal
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final

import msgspec

from agent.adapters.statelock import holder
from agent.errors import RemoteError
from agent.status import Status

if TYPE_CHECKING:
    from agent.reload import ReloadResult

RELOAD_S: Final = 300.0  # a new encoder may be timed first
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104  where to ask who listens there
_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.2


class RemoteAgent:
    """The agent that holds a state directory, or that listens at an address if we may not know who holds it."""

    def __init__(self, state_dir: str, listen: str) -> None:
        self._directory, self._listen = Path(state_dir), listen
        with contextlib.suppress(PermissionError):
            held = holder(self._directory)
            self._listen = listen if held is None else held.listen or listen

    def status(self) -> Status:
        """Return how it is. Raises RemoteError if nobody tells."""
        host, _, port = self._listen.rpartition(":")
        host = host.strip("[]")
        connection = HTTPConnection(_ANYWHERE.get(host, host), int(port), timeout=_TIMEOUT_S)
        try:
            connection.request("GET", "/status")
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, HTTPException) as error:
            raise RemoteError(
                f"expected an agent at {self._listen} (metrics.listen), found none ({error}); "
                "start it, or name its configuration with --config"
            ) from error
        finally:
            connection.close()
        try:
            return msgspec.json.decode(body, type=Status)
        except msgspec.DecodeError as error:
            what = "one that is too busy to answer" if answer.status == 503 else "something else"  # noqa: PLR2004
            raise RemoteError(f"expected an agent at {self._listen} (metrics.listen), found {what}") from error

    def reload(self, file: Path) -> ReloadResult:
        """Let it read its file anew; return what that led to. Raises RemoteError if it cannot be asked."""
        before = self.status()
        if Path(before.configuration.file) != file.resolve():
            raise RemoteError(
                f"expected an agent that runs with {file.resolve()}, "
                f"found one that runs with {before.configuration.file}; name that with --config"
            )
        self._signal()
        until = monotonic() + RELOAD_S
        while monotonic() < until:
            sleep(_POLL_S)
            found = self.status().configuration
            if found.reloads > before.configuration.reloads and not found.reloading and found.last_reload is not None:
                return found.last_reload
        raise RemoteError(f"expected an answer within {RELOAD_S:.0f} s, found none; the agent's log says more")

    def _signal(self) -> None:
        try:
            found = holder(self._directory)
            if found is None or not found.listen:
                raise RemoteError(f"{self._directory}: expected an agent that uses it, found none")
            os.kill(found.pid, signal.SIGHUP)
        except PermissionError as error:
            raise RemoteError(
                f"{self._directory}: expected the right to signal the agent that uses it, found none; "
                "run this as root, or as the agent's user"
            ) from error
