"""The socket between the broker and paho: reads in large pieces, keeps PUBLISH packets back, gathers writes.

paho sees an ordinary socket that carries only the packets it has to know about. This is the one place that
relies on something paho does not document: `Client._create_socket`.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Final

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.adapters.mqtt.broker import Protocol, tls_context
from agent.adapters.mqtt.events import Command
from agent.adapters.mqtt.frames import FrameReader, MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.adapters.mqtt.broker import BrokerSettings, Endpoint
    from agent.ports import InboundMessage

CONNECT_TIMEOUT_S: Final = 5.0  # for TCP, for TLS and for the broker's answer, each
READ_BYTES: Final = 65536
_WAIT = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Wire:
    """One connection's socket. Nothing here blocks; used by the network thread only.

    `failure` is why the connection ended, where the operating system or TLS knows it.
    """

    def __init__(self, sock: socket.socket, reader: FrameReader) -> None:
        self._socket = sock
        self._unsent = bytearray()
        self._ended = False
        self.reader = reader
        self.failure: Exception | None = None

    def receive(self) -> bool:
        """Read once from the network; return whether anything, an end included, was found."""
        try:
            data = self._socket.recv(READ_BYTES)
            if data:
                self.reader.feed(data)
            else:
                self._ended = True
        except _WAIT:
            return False
        except (OSError, MalformedError) as error:
            self.abort(error)
        return True

    def flush(self) -> None:
        """Write what has been gathered, as far as the network takes it."""
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except _WAIT:
            return
        except OSError as error:
            self.abort(error)

    def abort(self, reason: Exception) -> None:
        """Let paho find a broken connection at its next read."""
        self.failure = self.failure or reason
        self._ended = True
        self._unsent.clear()
        self.reader.control.clear()

    @property
    def unsent(self) -> bool:
        """Tell whether bytes wait for the network."""
        return bool(self._unsent)

    @property
    def news(self) -> bool:
        """Tell whether paho has something to read: a packet or the end."""
        return bool(self.reader.control) or self._ended

    def pending(self) -> int:
        """Return how many decrypted bytes wait where poll() does not see them."""
        return self._socket.pending() if isinstance(self._socket, ssl.SSLSocket) else 0

    # What paho calls.

    def recv(self, buffer_size: int) -> bytes:
        """Return bytes of packets other than PUBLISH; b"" after the end of the connection."""
        control = self.reader.control
        if not control:
            if self._ended:
                return b""
            raise BlockingIOError
        data = bytes(control[:buffer_size])
        del control[:buffer_size]
        return data

    def send(self, buffer: bytes | bytearray) -> int:
        """Gather bytes for the next flush."""
        self._unsent += buffer
        return len(buffer)

    def close(self) -> None:
        """Write what is left, if that is possible at once, and close."""
        with contextlib.suppress(OSError):
            if not self._ended:
                self.flush()
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._socket.fileno()

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 - the signature of socket.setblocking
        """Pass on."""
        self._socket.setblocking(flag)


class WiredClient(Client):
    """paho's client on a Wire. `reader_factory` makes the reader of each new connection."""

    reader_factory: Callable[[], FrameReader]
    tls: ssl.SSLContext | None = None
    wire: Wire | None = None

    def _create_socket(self) -> Wire:
        sock = socket.create_connection((self.host, self.port), timeout=self.connect_timeout)
        try:
            # Acknowledgements and alerts are small and must not wait for one another.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_hostname=self.host)
        except BaseException:
            sock.close()
            raise
        self.wire = Wire(sock, self.reader_factory())
        return self.wire


def make_client(settings: BrokerSettings, address: Endpoint, client_id: str, *, will_topic: str | None) -> WiredClient:
    """Return a client that is ready for `reconnect`, with a session that the broker keeps.

    Without a will's topic it has no will, and a session that ends with its connection.
    Raises ConfigurationError if a TLS file cannot be used.
    """
    mqtt5 = settings.protocol == Protocol.V5
    client = WiredClient(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        clean_session=None if mqtt5 else will_topic is None,
        protocol=MQTTProtocolVersion.MQTTv5 if mqtt5 else MQTTProtocolVersion.MQTTv311,
        reconnect_on_failure=False,  # also keeps paho from falling back to MQTT 3.1
    )
    client.tls = tls_context(settings) if address.tls else None
    client.connect_timeout = CONNECT_TIMEOUT_S
    client.max_inflight_messages_set(0)  # Connector keeps to the limit that the broker sets
    if will_topic is not None:
        client.will_set(will_topic, b"offline", qos=1, retain=True)
    keepalive_s = max(1, round(settings.keepalive_s))
    if mqtt5:
        properties = Properties(PacketTypes.CONNECT)
        kept_s = 0 if will_topic is None else round(settings.session_expiry_s)
        properties.SessionExpiryInterval = min(kept_s, 0xFFFFFFFF)
        properties.ReceiveMaximum = settings.receive_maximum
        # paho's default, a clean start, would empty the queue that the broker keeps for us.
        clean = will_topic is None
        client.connect_async(address.host, address.port, keepalive_s, clean_start=clean, properties=properties)
    else:
        client.connect_async(address.host, address.port, keepalive_s)
    return client


def command_of(message: InboundMessage, raw: bytes) -> Command:
    """Return a command with what its raw MQTT 5 properties say about the answer."""
    if raw in (b"", b"\0"):
        return Command(message)
    properties = Properties(PacketTypes.PUBLISH)
    properties.unpack(raw)
    return Command(message, getattr(properties, "ResponseTopic", None), getattr(properties, "CorrelationData", None))


def options(name: str, qos: int, *, as_published: bool) -> SubscribeOptions:
    """Return: no retained messages where the subscription exists already, and never what we published ourselves.

    With `as_published` what its sender wanted to be retained is marked so even when it comes at once.
    """
    foreign_only = not name.startswith("$share/")  # there it would be a protocol error
    handling = SubscribeOptions.RETAIN_SEND_IF_NEW_SUB
    return SubscribeOptions(qos, noLocal=foreign_only, retainAsPublished=as_published, retainHandling=handling)
