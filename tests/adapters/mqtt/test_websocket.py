"""MQTT in WebSocket frames: a real Mosquitto with and without TLS, and a real server that frames as it likes."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

from agent.adapters.mqtt.broker import Endpoint
from agent.adapters.mqtt.frames import FrameReader
from agent.adapters.mqtt.websocket import WebSocketWire
from tests.brokers import wait_until

STATUS = "redshank/pi/status"
CONNACK = b" \x03\x00\x00\x00"  # MQTT 5
SEEN = bytes(range(256))


def publication(payload):
    """Return a PUBLISH of QoS 0 on a/b, as MQTT 5 writes it."""
    body = b"\x00\x03a/b\x00" + payload
    size, length = b"", len(body)
    while True:
        size += bytes([length & 0x7F | (0x80 if length > 0x7F else 0)])
        length >>= 7
        if not length:
            return b"0" + size + body


@pytest.fixture
def make_server():
    """Return a function that makes a WebSocket server, which talks to each connection as told; its address."""
    servers = []

    def make(talk, **options):
        def handler(connection):
            with contextlib.suppress(ConnectionClosed):
                talk(connection)

        server = serve(handler, "127.0.0.1", 0, compression=None, max_size=None, **options)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return Endpoint("127.0.0.1", server.socket.getsockname()[1], tls=False, path="/mqtt")

    yield make
    for server in servers:
        server.shutdown()


def test_a_real_broker_is_spoken_to_in_frames_and_found_again(make_mosquitto, make_client, make_peer):
    broker = make_mosquitto(websockets=True)
    client, listener = make_client(broker.url, "a/#")
    peer = make_peer(broker, STATUS, "out/#")
    wait_until(lambda: peer.received == [(STATUS, b"online", True)])
    peer.publish("a/b", SEEN * 32)  # more than the 4 kB that Mosquitto puts into one piece
    wait_until(lambda: listener.payloads == [SEEN * 32])
    assert client.publish("out/big", SEEN * 4000, token=1)  # 1 MB
    wait_until(lambda: listener.published == [1])
    wait_until(lambda: peer.payloads("out/big") == [SEEN * 4000])
    peer.close()
    broker.kill()
    wait_until(lambda: not client.connected)
    broker.start()
    wait_until(lambda: client.connected and len(listener.sessions) == 2, 20)
    again = make_peer(broker, STATUS)
    wait_until(lambda: set(listener.subscriptions[-1]) == {"a/#"})
    again.publish("a/b", b"again")
    wait_until(lambda: listener.payloads[-1] == b"again")
    client.stop()
    assert listener.ends[-1] == "stopped"
    wait_until(lambda: again.payloads(STATUS)[-1] == b"offline")


def test_tls_is_as_without_frames(make_mosquitto, make_client, authority, caplog):
    certificate, key = authority.issue("web", host="DNS:localhost")
    broker = make_mosquitto(websockets=True, tls=(authority.certificate, certificate, key))
    assert broker.url.startswith("wss://")
    distrusting, _ = make_client(broker.url, ready=False)
    wait_until(lambda: "is not trusted" in caplog.text)
    distrusting.stop()
    client, listener = make_client(broker.url, "a/#", ca_file=str(authority.certificate), protocol="3.1.1")
    sender = Client(CallbackAPIVersion.VERSION2, transport="websockets")  # another's frames, and another's TLS
    sender.tls_set_context(authority.trusted())
    sender.connect("localhost", broker.web_port)
    sender.loop_start()
    sender.publish("a/b", SEEN * 8, 1).wait_for_publish(10)
    wait_until(lambda: listener.payloads == [SEEN * 8])
    sender.disconnect()
    sender.loop_stop()
    assert client.connected


def test_where_frames_begin_says_nothing_about_packets(make_server, make_client):
    """Packets in one frame, one in pieces, 24 MB that are thrown away, 8 MB that are not, a ping between."""
    answered = threading.Event()

    def talk(connection):
        connection.recv()
        connection.send(CONNACK + publication(b"1") + publication(b"2")[:4])
        connection.send([publication(b"2")[4:6], publication(b"2")[6:]])  # as a fragmented message
        if connection.ping().wait(10):
            answered.set()
        connection.send(publication(bytes(24_000_000)) + publication(b"3"))
        connection.send(publication(SEEN * 32768))
        connection.recv()

    address = make_server(talk, subprotocols=["mqtt"], ping_interval=None)
    _, listener = make_client(str(address), ready=False, max_message_size=16_000_000)
    wait_until(lambda: len(listener.messages) == 4, 30)
    assert listener.payloads == [b"1", b"2", b"3", SEEN * 32768]
    assert [(topic, size > 24_000_000) for topic, size in listener.oversized] == [("a/b", True)]
    assert answered.is_set()


def test_a_server_that_ends_in_order_is_a_lost_connection(make_server, make_client):
    def talk(connection):
        connection.recv()
        connection.send(CONNACK)
        connection.close()

    _, listener = make_client(str(make_server(talk, subprotocols=["mqtt"])), ready=False)
    wait_until(lambda: len(listener.ends) > 1)
    assert all("was lost" in end for end in listener.ends)


def test_what_is_no_websocket_frame_ends_the_connection(make_server, make_client, caplog):
    def talk(connection):
        connection.recv()
        connection.socket.sendall(b"\xff\xff\xff\xff")

    make_client(str(make_server(talk, subprotocols=["mqtt"])), ready=False)
    wait_until(lambda: "no WebSocket frames" in caplog.text)


def test_a_refusal_is_told_in_words(make_server, make_client, caplog):
    def refuse(connection, _request):
        return connection.respond(404, "not here\n")

    address = make_server(lambda _: None, subprotocols=["mqtt"], process_request=refuse)
    make_client(str(address), ready=False)
    wait_until(lambda: "answers with HTTP 404" in caplog.text)
    assert "is the path in broker.url right?" in caplog.text


def test_websockets_without_mqtt_and_others_are_told_in_words(make_server, mosquitto, make_client, caplog):
    make_client(str(make_server(lambda _: None)), ready=False)
    wait_until(lambda: "speaks WebSocket, but not MQTT in it" in caplog.text)
    make_client(f"ws://localhost:{mosquitto.port}", ready=False)  # which speaks plain MQTT
    wait_until(lambda: "does not open a WebSocket: did not receive a valid HTTP response" in caplog.text)


def test_an_answer_that_is_not_http_is_told_in_words():
    near, far = socket.socketpair()
    with near, far:
        far.sendall(b"hello\r\n\r\n")
        reader = FrameReader(own_roots=(), command=None, noticed=None, mqtt5=True, connection=1, max_size=100)
        with pytest.raises(ConnectionError, match="does not open a WebSocket"):
            WebSocketWire(near, reader, Endpoint("broker", 80, tls=False, path="/mqtt"))
