"""What `redshank status` and `redshank reload` do: find the agent that runs with a configuration, and ask it."""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final

import msgspec

from agent.adapters.statelock import holder
from agent.errors import BusyError, RemoteError
from agent.status import Status

if TYPE_CHECKING:
    from agent.adapters.http import MetricsSettings
    from agent.reload import ReloadResult

RELOAD_S: Final = 300.0  # a new encoder may be timed first
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104  where to ask who listens there
_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.2


class RemoteAgent:
    """The agent that holds a state directory, or that listens at an address if we may not know who holds it."""

    def __init__(self, state_dir: str, metrics: MetricsSettings) -> None:
        self._directory, self._listen, self._certificate = Path(state_dir), metrics.listen, metrics.cert_file
        self._headers: dict[str, str] = {}
        with contextlib.suppress(PermissionError):
            held = holder(self._directory)
            if held is not None and held.listen:
                self._listen = held.listen
                self._headers = {"Authorization": f"Bearer {held.token}"} if held.token else {}

    def status(self) -> Status:
        """Return how it is. Raises RemoteError if nobody tells, BusyError if that may pass."""
        connection = None
        try:
            connection = self._connection()
            connection.request("GET", "/status", headers=self._headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, HTTPException) as error:
            kind = BusyError if isinstance(error, TimeoutError) else RemoteError
            raise kind(
                f"expected an agent at {self._listen} (metrics.listen), found none ({error}); "
                "start it, or name its configuration with --config"
            ) from error
        finally:
            if connection is not None:
                connection.close()
        if answer.status == HTTPStatus.UNAUTHORIZED:
            raise RemoteError(
                f"{self._directory}: expected the right to read the agent's token there, found none; "
                "run this as root, or as the agent's user"
            )
        try:
            return msgspec.json.decode(body, type=Status)
        except msgspec.DecodeError as error:
            busy = answer.status == HTTPStatus.SERVICE_UNAVAILABLE
            what = "one that is too busy to answer" if busy else "something else"
            kind = BusyError if busy else RemoteError
            raise kind(f"expected an agent at {self._listen} (metrics.listen), found {what}") from error

    def _connection(self) -> HTTPConnection:
        host, _, port = self._listen.rpartition(":")
        host = host.strip("[]")
        host = _ANYWHERE.get(host, host)
        if self._certificate is None:
            return HTTPConnection(host, int(port), timeout=_TIMEOUT_S)
        context = ssl.create_default_context(cafile=self._certificate)
        context.check_hostname = False  # whatever name it is for: it has to be this very certificate
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # 3.13's default would refuse it for how it was made
        return HTTPSConnection(host, int(port), timeout=_TIMEOUT_S, context=context)

    def reload(self, file: Path) -> ReloadResult:
        """Let it read its file anew; return what that led to. Raises RemoteError if it cannot be asked."""
        until = monotonic() + RELOAD_S
        before = self._status_by(until)
        if Path(before.configuration.file) != file.resolve():
            raise RemoteError(
                f"expected an agent that runs with {file.resolve()}, "
                f"found one that runs with {before.configuration.file}; name that with --config"
            )
        self._signal()
        while monotonic() < until:
            sleep(_POLL_S)
            found = self._status_by(until).configuration
            if found.reloads > before.configuration.reloads and not found.reloading and found.last_reload is not None:
                return found.last_reload
        raise RemoteError(f"expected an answer within {RELOAD_S:.0f} s, found none; the agent's log says more")

    def _status_by(self, until: float) -> Status:
        """Return how it is once it is not too busy to tell."""
        while True:
            try:
                return self.status()
            except BusyError:
                if monotonic() >= until:
                    raise
            sleep(_POLL_S)

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
