"""Brokers for tests: a real Mosquitto on a free port, a scripted one that misbehaves, and a test CA."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

if TYPE_CHECKING:
    from collections.abc import Callable

# Debian puts it where an ordinary user's PATH does not look.
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
INSTALL_MOSQUITTO = "sudo apt install mosquitto"


def wait_until(condition: Callable[[], object], timeout_s: float = 10.0, what: str = "") -> None:
    """Return once `condition` holds; fail the test after `timeout_s`, and say for what it waited."""
    deadline, pause = time.monotonic() + timeout_s, 0.002
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain {what}"
        time.sleep(pause)
        pause = min(1.5 * pause, 0.05)  # who is asked has work to do


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Authority:
    """A test CA made by the openssl command (no dependency for it); `wrong` is another that nobody trusts."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.key, self.certificate = folder / f"{name}.key", folder / f"{name}.pem"
        self._openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", f"/CN=test {name}", "-keyout", str(self.key), "-out", str(self.certificate),
        )  # fmt: skip

    def issue(self, name: str, *, host: str | None = None) -> tuple[Path, Path]:
        """Return a certificate and its key: for a server called `host`, or for a client."""
        key, request, certificate = (self.folder / f"{name}.{suffix}" for suffix in ("key", "csr", "crt"))
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={host}\n" if host else "extendedKeyUsage=clientAuth\n")
        self._openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
            "-keyout", str(key), "-out", str(request),
        )  # fmt: skip
        self._openssl(
            "x509", "-req", "-in", str(request), "-CA", str(self.certificate), "-CAkey", str(self.key),
            "-CAcreateserial", "-days", "2", "-extfile", str(extensions), "-out", str(certificate),
        )  # fmt: skip
        return certificate, key

    def trusted(self) -> ssl.SSLContext:
        """Return what a client trusts this CA with. 3.13 would be strict, and refuse one as home-made as this."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context

    @staticmethod
    def _openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)


class Mosquitto:
    """A Mosquitto process of our own in `folder`. Its port stays the same over restarts."""

    def __init__(
        self,
        folder: Path,
        *,
        users: dict[str, str] | None = None,
        acl: str | None = None,
        tls: tuple[Path, Path, Path] | None = None,
        client_certificates: bool = False,
        persistence: bool = False,
        websockets: bool = False,
        log: str = "all",
        extra: str = "",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.web_port = free_port() if websockets else None
        self.tls = tls is not None
        self._process: subprocess.Popen[bytes] | None = None
        lines = [f"listener {self.port} 127.0.0.1", f"allow_anonymous {str(users is None).lower()}"]
        if websockets:  # beside a plain listener: Mosquitto 2.0.11 ends where there is none but this
            lines += [f"listener {self.web_port} 127.0.0.1", "protocol websockets"]
        if tls is not None:
            ca, certificate, key = tls
            lines += [f"cafile {ca}", f"certfile {certificate}", f"keyfile {key}"]
            lines += [f"require_certificate {str(client_certificates).lower()}"]
        if users is not None:
            self.set_users(users)
            lines.append(f"password_file {folder / 'passwords'}")
        if acl is not None:
            (folder / "acl").write_text(acl)
            lines.append(f"acl_file {folder / 'acl'}")
        if persistence:
            lines += ["persistence true", f"persistence_location {folder}/"]
        lines += [f"log_type {log}", f"log_dest file {folder / 'log'}", "connection_messages true", extra]
        if os.geteuid() == 0:
            lines.append("user root")  # else Mosquitto gives its rights up, and cannot read our files
        self._configuration = folder / "mosquitto.conf"
        self._configuration.write_text("\n".join(lines) + "\n")

    @property
    def url(self) -> str:
        if self.web_port is not None:
            return f"{'wss' if self.tls else 'ws'}://localhost:{self.web_port}/mqtt"
        return f"{'mqtts' if self.tls else 'mqtt'}://localhost:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def set_users(self, users: dict[str, str]) -> None:
        path = self.folder / "passwords"
        path.write_text("".join(f"{name}:{word}\n" for name, word in users.items()))
        subprocess.run(["mosquitto_passwd", "-U", str(path)], check=True, capture_output=True)

    def start(self) -> None:
        assert MOSQUITTO is not None
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self._configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._listens)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"mosquitto ended at once: {self.log}"
        for port in filter(None, (self.port, self.web_port)):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                return False
        return True

    def stop(self) -> None:
        """End it in order: it saves its sessions if it has persistence."""
        self._end(subprocess.Popen.terminate)

    def kill(self) -> None:
        """Kill -9: what it had only in memory is gone."""
        self._end(subprocess.Popen.kill)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def save(self) -> None:
        """Have it write its database now."""
        database = self.folder / "mosquitto.db"
        before = database.stat().st_mtime_ns if database.exists() else 0
        self.signal(signal.SIGUSR1)
        wait_until(lambda: database.exists() and database.stat().st_mtime_ns > before)

    def restart(self) -> None:
        self.stop()
        self.start()

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        if self._process is not None:
            how(self._process)
            self._process.wait(10)
            self._process = None


class Peer:
    """Another client of the broker, plain paho: publishes, and remembers what it receives."""

    def __init__(self, broker: Mosquitto, *topics: str, user: tuple[str, str] | None = None) -> None:
        self.received: list[tuple[str, bytes, bool]] = []
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._ready = threading.Event()
        self._client.on_connect = lambda client, *_: self._subscribe(client, topics)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda _client, _data, message: self.received.append(
            (message.topic, bytes(message.payload), bool(message.retain))
        )
        if user is not None:
            self._client.username_pw_set(*user)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        assert self._ready.wait(5)

    def _subscribe(self, client: Client, topics: tuple[str, ...]) -> None:
        if topics:
            client.subscribe([(topic, SubscribeOptions(qos=1, retainAsPublished=True)) for topic in topics])
        else:
            self._ready.set()

    def publish(self, topic: str, payload: bytes | str = b"", *, qos: int = 1, retain: bool = False) -> None:
        """Publish, and wait until the broker has it."""
        self._client.publish(topic, payload, qos, retain).wait_for_publish(5)

    def publish_with(self, topic: str, payload: bytes, properties: object) -> None:
        self._client.publish(topic, payload, 1, properties=properties).wait_for_publish(5)

    def payloads(self, topic: str) -> list[bytes]:
        return [payload for name, payload, _ in self.received if name == topic]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class ScriptedBroker:
    """Answers each MQTT packet type as told and stays silent otherwise: for what no real broker does on demand.

    `answers` maps a packet type (1 CONNECT, 3 PUBLISH, 8 SUBSCRIBE ...) to a function from the packet's body
    to the bytes to send; `packets` lists what came, type and body.
    """

    def __init__(self, answers: dict[int, Callable[[bytes], bytes]]) -> None:
        self._answers = answers
        self._server = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.packets: list[tuple[int, bytes]] = []
        self.url = f"mqtt://127.0.0.1:{self._server.getsockname()[1]}"
        self._thread.start()

    def send(self, data: bytes) -> None:
        self._connections[-1].sendall(data)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._thread.join(5)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                self._connections.append(connection)
                with contextlib.suppress(OSError, IndexError):
                    self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        with stream:
            while True:
                head = stream.read(1)[0]
                length = shift = 0
                while True:
                    byte = stream.read(1)[0]
                    length |= (byte & 0x7F) << shift
                    shift += 7
                    if byte < 0x80:
                        break
                body = stream.read(length)
                self.packets.append((head >> 4, body))
                if head >> 4 in self._answers:
                    connection.sendall(self._answers[head >> 4](body))
