"""/metrics, /status, /healthz and /readyz on one port: for this machine, or with TLS and credentials for others.

What others send is bounded in size, time and number: who is slow, or too many, loses the connection, and nobody waits.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import ssl
import sys
import threading
from http.client import LineTooLong
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from agent.adapters.http_access import Access, Verdict
from agent.core.types import Settings
from agent.credentials import check_secret_file, stamp
from agent.errors import ConfigurationError, ListenError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES: Final = 16 * 1024  # of request line and headers
MAX_WAITING: Final = 32  # connections whose request has not been admitted yet
MAX_SERVED: Final = 16
REQUEST_S: Final = 10.0  # from the connection to the end of the answer
_SILENCE_S: Final = 5.0
_LOOK_S: Final = 10.0  # between two looks at the certificate
_LAST_PORT: Final = 65535
_OPEN: Final = ("/healthz", "/readyz")  # one word each: what starts and restarts containers cannot log in
_CHALLENGES: Final = ('Basic realm="redshank", charset="UTF-8"', 'Bearer realm="redshank"')


class MetricsSettings(Settings, frozen=True):
    """Where Prometheus finds us, what it must show, and with which certificate we answer."""

    listen: str = "127.0.0.1:9791"
    credentials_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Return host and port. Raises ValueError where `listen` has none."""
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isdecimal() or int(port) > _LAST_PORT:
            raise ValueError(self.listen)
        return host.strip("[]"), int(port)


def metrics_problems(settings: MetricsSettings) -> list[Problem]:
    """Return what is wrong with these settings; `where` is the key."""
    try:
        host, _ = settings.address
    except ValueError:
        return [Problem("listen", "HOST:PORT such as 127.0.0.1:9791", repr(settings.listen))]
    problems = []
    if settings.credentials_file is None and not is_loopback(host):
        expected = f"metrics.credentials_file beside an address that others reach ({settings.listen})"
        problems.append(
            Problem("listen", expected, "none", "make one by `redshank credential`, or listen at 127.0.0.1")
        )
    if settings.key_file is not None and settings.cert_file is None:
        problems.append(Problem("key_file", "cert_file beside it", "none"))
    return problems


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address. A name other than localhost may be anywhere."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Pages(msgspec.Struct, frozen=True):
    """What is served. `status` returns JSON, None while there is none to be had."""

    registry: CollectorRegistry
    healthy: Callable[[], bool]
    ready: Callable[[], bool]
    status: Callable[[], bytes | None]


class _Head:
    """The beginning of a request, bounded: a first line is cut off, and a header that is too much is an error."""

    def __init__(self, file: Any) -> None:
        self._file, self._left, self._first = file, MAX_HEAD_BYTES, True

    def readline(self, size: int = -1) -> bytes:
        line: bytes = self._file.readline(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(line)
        if self._left < 0 and not self._first:
            raise LineTooLong("headers")
        self._first = False
        return line

    def close(self) -> None:
        self._file.close()


class _Handler(BaseHTTPRequestHandler):
    timeout = _SILENCE_S
    server_version, sys_version = "redshank", ""
    server: _Server

    def setup(self) -> None:
        """Shake hands in this thread, not in that which accepts connections."""
        if isinstance(self.request, ssl.SSLSocket):
            self.request.settimeout(_SILENCE_S)
            self.request.do_handshake()
        super().setup()
        self.rfile: Any = _Head(self.rfile)

    def do_GET(self) -> None:
        path, pages = self.path.partition("?")[0], self.server.pages
        access = self.server.access if path not in _OPEN else None
        verdict = Verdict.ADMITTED if access is None else access.judge(self.headers.get("Authorization"))
        if verdict is Verdict.REFUSED:
            self._answer(401, b"not without credentials\n", headers=[("WWW-Authenticate", one) for one in _CHALLENGES])
        elif verdict is Verdict.LATER:
            self._answer(429, b"too many credentials were tried\n", headers=[("Retry-After", "1")])
        elif not self.server.admit(self.request):
            self._answer(503, b"too many requests at once\n", headers=[("Retry-After", "1")])
        elif path == "/metrics":
            self._answer(200, generate_latest(pages.registry), CONTENT_TYPE_LATEST)
        elif path == "/status":
            found = pages.status()
            self._answer(
                503 if found is None else 200, found or b"not ok\n", "application/json" if found else "text/plain"
            )
        elif path in _OPEN:
            good = pages.healthy() if path == "/healthz" else pages.ready()
            self._answer(200 if good else 503, b"ok\n" if good else b"not ok\n")
        else:
            self._answer(404, b"/metrics, /status, /healthz and /readyz\n")

    def _answer(
        self, status: int, body: bytes, kind: str = "text/plain", *, headers: list[tuple[str, str]] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in [("Content-Type", kind), ("Content-Length", str(len(body))), *(headers or [])]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing: a scrape is not news, and a header may be a secret."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, settings: MetricsSettings, pages: Pages, access: Access | None) -> None:
        host, port = settings.address
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.pages, self.access = pages, access
        self._settings, self._tls = settings, _tls_context(settings)
        self._stamps, self._looked_at = _stamps(settings), monotonic()
        self._waiting: dict[socket.socket, float] = {}  # since when, oldest first
        self._served: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind, without asking DNS for our own name as HTTPServer does: where DNS is away that takes minutes."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "", self.server_address[1]

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take a connection; of too many that wait the oldest goes: an honest request is there at once."""
        connection, address = super().get_request()
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            oldest = next(iter(self._waiting)) if len(self._waiting) >= MAX_WAITING else None
            if oldest is not None:
                del self._waiting[oldest]
            self._waiting[connection] = monotonic()
        if oldest is not None:
            _cut(oldest)
        return connection, address

    def admit(self, connection: socket.socket) -> bool:
        """Tell whether a request may be answered now; it is no longer cut off for another."""
        with self._lock:
            since = self._waiting.pop(connection, None)
            if since is None or len(self._served) >= MAX_SERVED:
                return False
            self._served[connection] = since
            return True

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that ends."""
        with self._lock:
            self._waiting.pop(request, None)
            self._served.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut off what takes too long; use a certificate that was renewed. Called twice a second or more."""
        now = monotonic()
        with self._lock:
            late = [one for all_ in (self._waiting, self._served) for one, at in all_.items() if now - at > REQUEST_S]
        for one in late:
            _cut(one)
        if self._tls is not None and now - self._looked_at > _LOOK_S:
            self._looked_at, before = now, self._stamps
            self._stamps = _stamps(self._settings)
            if self._stamps != before:
                try:
                    _load_certificate(self._tls, self._settings)
                except ConfigurationError as error:
                    logger.warning("keeping the certificate read before: %s", error)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away, or was cut off; it is not news."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class HttpServer:
    """Serves until stopped, in a thread of its own. With `token` as bearer this machine's own commands are let in.

    Raises ListenError if the address cannot be taken, ConfigurationError if the credentials or the certificate cannot
    be used, or are missing where others reach the address.
    """

    def __init__(self, settings: MetricsSettings, pages: Pages, *, token: str = "") -> None:
        problems = metrics_problems(settings)
        if problems:
            raise ConfigurationError([msgspec.structs.replace(one, where=f"metrics.{one.where}") for one in problems])
        file = settings.credentials_file
        access = None if file is None else Access(file, token)
        try:
            self._server = _Server(settings, pages, access)
        except OSError as error:
            raise ListenError(
                f"metrics.listen: expected an address that is ours and free, found {settings.listen} "
                f"({error.strerror}); stop what uses it, or choose another"
            ) from error
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _cut(connection: socket.socket) -> None:
    """End a connection that another thread uses: it finds the end. TLS's own state is that thread's."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _tls_context(settings: MetricsSettings) -> ssl.SSLContext | None:
    if settings.cert_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_certificate(context, settings)
    return context


def _load_certificate(context: ssl.SSLContext, settings: MetricsSettings) -> None:
    assert settings.cert_file is not None
    check_secret_file(settings.key_file or settings.cert_file, "metrics.key_file")
    try:
        context.load_cert_chain(settings.cert_file, settings.key_file, password="")
    except OSError as error:
        found = f"{settings.cert_file}, {settings.key_file}: {error.strerror or error}"
        raise ConfigurationError([Problem("metrics.cert_file", "a certificate and its key (PEM)", found)]) from None


def _stamps(settings: MetricsSettings) -> list[object]:
    return [stamp(path) for path in (settings.cert_file, settings.key_file) if path is not None]
