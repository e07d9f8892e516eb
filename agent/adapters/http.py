"""/metrics, /status, /healthz and /readyz on one port."""

from __future__ import annotations

import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from agent.errors import ListenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Bind, without asking DNS for our own name as HTTPServer does: where DNS is away that takes minutes."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away; it is not news."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _ServerIPv6(_Server):
    address_family = socket.AF_INET6


class HttpServer:
    """Serves until stopped, in a thread of its own. `status` returns JSON, None while there is none to be had.

    Raises ListenError if the address cannot be taken.
    """

    def __init__(
        self,
        listen: str,
        registry: CollectorRegistry,
        healthy: Callable[[], bool],
        ready: Callable[[], bool],
        status: Callable[[], bytes | None],
    ) -> None:
        host, _, port = listen.rpartition(":")

        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    self._answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)
                elif path == "/status":
                    found = status()
                    kind = "text/plain" if found is None else "application/json"
                    self._answer(503 if found is None else 200, found or b"not ok\n", kind)
                elif path in ("/healthz", "/readyz"):
                    good = healthy() if path == "/healthz" else ready()
                    self._answer(200 if good else 503, b"ok\n" if good else b"not ok\n", "text/plain")
                else:
                    self._answer(404, b"/metrics, /status, /healthz and /readyz\n", "text/plain")

            def _answer(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Log nothing: a scrape is not news."""

        host = host.strip("[]")
        try:
            self._server = (_ServerIPv6 if ":" in host else _Server)((host, int(port)), Handler)
        except OSError as error:
            raise ListenError(
                f"metrics.listen: expected an address that is ours and free, found {listen} ({error.strerror}); "
                "stop what uses it, or choose another"
            ) from error
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
