from __future__ import annotations

import http.client
import socket
import struct
import threading
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Counter

from agent.adapters.http import HttpServer
from agent.errors import ListenError, RedshankError
from tests.brokers import wait_until


class Health:
    healthy = ready = True
    status = b"{}"


@pytest.fixture
def health():
    return Health()


@pytest.fixture
def registry():
    registry = CollectorRegistry()
    Counter("things_total", "Things", registry=registry).inc(3)
    return registry


@pytest.fixture
def start(registry, health):
    servers = []

    def make(listen="127.0.0.1:0"):
        servers.append(
            HttpServer(listen, registry, lambda: health.healthy, lambda: health.ready, lambda: health.status)
        )
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


def get(server, path, host="127.0.0.1"):
    """Return status, content type and body."""
    try:
        with urllib.request.urlopen(f"http://{host}:{server.port}{path}", timeout=5) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


@pytest.mark.parametrize("path", ["/metrics", "/metrics?name[]=things_total"])
def test_metrics_are_served_in_the_text_format_of_prometheus(start, path):
    status, kind, body = get(start(), path)
    assert status == 200
    assert kind.startswith("text/plain; version=")
    assert "things_total 3.0" in body.splitlines()


def test_health_and_readiness_are_told_apart_and_asked_anew_each_time(start, health):
    server = start()
    for healthy, ready in [(True, True), (True, False), (False, True), (True, True)]:
        health.healthy, health.ready = healthy, ready
        for path, good in (("/healthz", healthy), ("/readyz", ready)):
            assert get(server, path) == ((200, "text/plain", "ok\n") if good else (503, "text/plain", "not ok\n"))


def test_the_status_is_json_and_503_while_there_is_none(start, health):
    server = start()
    assert get(server, "/status") == (200, "application/json", "{}")
    health.status = None
    assert get(server, "/status") == (503, "text/plain", "not ok\n")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/healthz/x", "/../metrics"])
def test_any_other_path_is_404_and_says_what_there_is(start, path):
    status, _, body = get(start(), path)
    assert status == 404
    assert body == "/metrics, /status, /healthz and /readyz\n"


def test_nothing_can_be_sent_to_it(start):
    connection = http.client.HTTPConnection("127.0.0.1", start().port, timeout=5)
    connection.request("POST", "/metrics", b"x")
    assert connection.getresponse().status == 501
    connection.close()


def test_it_listens_on_ipv6_where_the_address_says_so(start):
    assert get(start("[::1]:0"), "/healthz", host="[::1]")[0] == 200


def test_requests_are_served_at_the_same_time(start):
    server = start()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\n")  # and never the rest
        assert get(server, "/healthz")[0] == 200


def test_a_client_that_goes_away_is_no_news(start, capfd):
    server = start()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as rude:
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes with a reset
        rude.sendall(b"GET /metrics HTTP/1.1\r\n")
    assert get(server, "/metrics")[0] == 200
    wait_until(lambda: not any("process_request" in thread.name for thread in threading.enumerate()))
    assert capfd.readouterr() == ("", "")


def test_a_bug_in_an_answer_is_shown_and_stops_nothing(registry, capfd):
    def fails():
        raise ZeroDivisionError

    server = HttpServer("127.0.0.1:0", registry, fails, lambda: True, lambda: None)
    with pytest.raises(http.client.RemoteDisconnected):
        get(server, "/healthz")
    assert get(server, "/readyz")[0] == 200
    server.stop()
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_an_address_in_use_is_an_error_that_names_it(start):
    port = start().port
    with pytest.raises(ListenError, match=rf"metrics\.listen: .* found 127\.0\.0\.1:{port} \(Address already in use\)"):
        start(f"127.0.0.1:{port}")


@pytest.mark.parametrize("listen", ["192.0.2.1:0", "no-such-host.invalid:0"])
def test_an_address_that_is_not_ours_is_an_error_that_names_it(start, listen):
    with pytest.raises(RedshankError, match=listen):
        start(listen)


def test_a_stopped_server_gives_its_port_back(start, registry):
    server = HttpServer("127.0.0.1:0", registry, lambda: True, lambda: True, lambda: None)
    assert get(server, "/healthz")[0] == 200
    server.stop()
    assert "http" not in [thread.name for thread in threading.enumerate()]
    assert get(start(f"127.0.0.1:{server.port}"), "/healthz")[0] == 200
