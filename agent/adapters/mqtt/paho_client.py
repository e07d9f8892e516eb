"""paho's client on a wire of ours, and the packets' properties.

This is the one place that relies on something paho does not document: `Client._create_socket`.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

from paho.mqtt import MQTTException
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.adapters.mqtt.broker import Protocol, endpoint, tls_context
from agent.adapters.mqtt.events import Command
from agent.adapters.mqtt.wire import Wire

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from agent.adapters.mqtt.broker import BrokerSettings, Endpoint
    from agent.adapters.mqtt.frames import FrameReader
    from agent.ports import InboundMessage

CONNECT_TIMEOUT_S: Final = 5.0  # for TCP, for TLS and for the broker's answer, each


class WiredClient(Client):
    """paho's client on a Wire. `reader_factory` makes the reader of each new connection."""

    reader_factory: Callable[[], FrameReader]
    address: Endpoint
    tls: ssl.SSLContext | None = None
    wire: Wire | None = None

    def _create_socket(self) -> Wire:
        self.wire = open_wire(self.address, self.tls, self.reader_factory(), self.connect_timeout)
        return self.wire


def open_wire(address: Endpoint, tls: ssl.SSLContext | None, reader: FrameReader, timeout_s: float) -> Wire:
    """Connect: TCP, TLS and WebSocket, each within the timeout. Raises OSError or UnicodeError."""
    sock = socket.create_connection((address.host, address.port), timeout=timeout_s)
    try:
        # Acknowledgements and alerts are small and must not wait for one another.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.tls:
            assert tls is not None
            sock = tls.wrap_socket(sock, server_hostname=address.host)
        if address.path is None:
            return Wire(sock, reader)
        from agent.adapters.mqtt.websocket import WebSocketWire  # noqa: PLC0415  who needs none saves its memory

        return WebSocketWire(sock, reader, address)
    except BaseException:
        sock.close()
        raise


def reachable(address: Endpoint, tls: ssl.SSLContext | None, reader: FrameReader) -> bool:
    """Tell whether a broker takes connections."""
    try:
        open_wire(address, tls, reader, CONNECT_TIMEOUT_S).close()
    except (OSError, UnicodeError):
        return False
    return True


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
    client.address = address
    every = (address, *map(endpoint, settings.fallback))
    client.tls = tls_context(settings) if any(one.tls for one in every) else None
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
    """Return a command with what its raw MQTT 5 properties say about the answer; nothing where they are malformed."""
    if raw in (b"", b"\0"):
        return Command(message)
    properties = Properties(PacketTypes.PUBLISH)
    try:
        properties.unpack(raw)
    except (MQTTException, LookupError, ValueError, struct.error):  # what paho's parser raises
        return Command(message)
    return Command(message, getattr(properties, "ResponseTopic", None), getattr(properties, "CorrelationData", None))


def options(name: str, qos: int, *, as_published: bool, own: bool) -> SubscribeOptions:
    """Return: no retained messages where the subscription exists already; what we published ourselves only if `own`.

    With `as_published` what its sender wanted to be retained is marked so even when it comes at once.
    """
    foreign_only = not own and not name.startswith("$share/")  # there it would be a protocol error
    handling = SubscribeOptions.RETAIN_SEND_IF_NEW_SUB
    return SubscribeOptions(qos, noLocal=foreign_only, retainAsPublished=as_published, retainHandling=handling)
