from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
import struct
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter

from agent.adapters.http import MAX_HEAD_BYTES, MAX_WAITING, HttpServer, MetricsSettings, Pages, is_loopback
from agent.adapters.http_access import BURST, _entry, line_of
from agent.errors import ConfigurationError, ListenError, RedshankError
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

    def make(listen="127.0.0.1:0", token="", **settings):
        pages = Pages(registry, lambda: health.healthy, lambda: health.ready, lambda: health.status)
        servers.append(HttpServer(MetricsSettings(listen=listen, **settings), pages, token=token))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


PASSWORD = "correct horse battery"
TOKEN = "a-token-of-prometheus"


@pytest.fixture
def credentials(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.adapters.http_access._COST", (16, 8, 1))  # what costs time on purpose costs tests time
    path = tmp_path / "credentials"
    password, token = line_of("basic", "prometheus", PASSWORD), line_of("bearer", "grafana", TOKEN)
    path.write_text(f"# who may ask\n{password}\n\n{token}\n")
    path.chmod(0o600)
    return str(path)


def basic(name, password):
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def ask(server, authorization=None, path="/metrics"):
    """Return status and headers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", path, headers={} if authorization is None else {"Authorization": authorization})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, answer.headers


def get(server, path, host="127.0.0.1", scheme="http", context=None):
    """Return status, content type and body."""
    try:
        with urllib.request.urlopen(f"{scheme}://{host}:{server.port}{path}", timeout=5, context=context) as answer:
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

    pages = Pages(registry, fails, lambda: True, lambda: None)
    server = HttpServer(MetricsSettings(listen="127.0.0.1:0"), pages)
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
def test_an_address_that_is_not_ours_is_an_error_that_names_it(start, credentials, listen):
    with pytest.raises(RedshankError, match=listen):
        start(listen, credentials_file=credentials)


def test_a_stopped_server_gives_its_port_back(start, registry):
    pages = Pages(registry, lambda: True, lambda: True, lambda: None)
    server = HttpServer(MetricsSettings(listen="127.0.0.1:0"), pages)
    assert get(server, "/healthz")[0] == 200
    server.stop()
    assert "http" not in [thread.name for thread in threading.enumerate()]
    assert get(start(f"127.0.0.1:{server.port}"), "/healthz")[0] == 200


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", True), ("127.5.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.0.2.7", False), ("localhost.example.org", False), ("::ffff:192.0.2.7", False)],
)  # fmt: skip
def test_an_address_is_of_this_machine_only_if_that_is_certain(host, here):
    assert is_loopback(host) is here


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.7:0", "press-shop:0"])
def test_where_others_reach_it_it_does_not_serve_without_credentials(start, listen):
    with pytest.raises(ConfigurationError, match=r"metrics\.listen: expected metrics\.credentials_file beside"):
        start(listen)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "0.0.0.0:0"])
def test_with_credentials_it_tells_nothing_to_who_has_none(start, credentials, listen):
    server = start(listen, credentials_file=credentials)
    for path in ("/metrics", "/status", "/", "/healthz/x"):
        status, headers = ask(server, path=path)
        assert status == 401
        assert [one.split()[0] for one in headers.get_all("WWW-Authenticate")] == ["Basic", "Bearer"]
    assert ask(server, basic("prometheus", PASSWORD))[0] == 200
    assert ask(server, f"Bearer {TOKEN}", "/status")[0] == 200
    assert (
        ask(server, path="/healthz")[0] == ask(server, path="/readyz")[0] == 200
    )  # one word, for who starts containers


WRONG = (
    "", "Bearer", "Bearer wrong", f"Bearer {PASSWORD}", f"Basic {TOKEN}", "Basic !!!", basic("prometheus", TOKEN),
    basic("grafana", TOKEN), basic("prometheus", PASSWORD + " "), basic("", ""), "Digest x", "Bearer " + "x" * 9000,
)  # fmt: skip


def test_what_is_wrong_is_refused(start, credentials, monkeypatch):
    monkeypatch.setattr("agent.adapters.http_access.ATTEMPTS_PER_S", 1e9)
    server = start(credentials_file=credentials)
    assert [ask(server, wrong)[0] for wrong in WRONG] == [401] * len(WRONG)


def test_secrets_cannot_be_tried_out_and_who_is_known_is_let_in_meanwhile(start, credentials, caplog, monkeypatch):
    monkeypatch.setattr("agent.adapters.http_access.ATTEMPTS_PER_S", 0.0)
    server = start(credentials_file=credentials, token="of-our-own")
    right = basic("prometheus", PASSWORD)
    assert ask(server, right)[0] == 200
    tried = [ask(server, f"Bearer guess-{number}")[0] for number in range(int(BURST) + 3)]
    assert tried == [401] * int(BURST) + [429] * 3
    assert ask(server, f"Bearer {TOKEN}")[0] == 429  # not known yet
    assert ask(server, right)[0] == ask(server, "Bearer of-our-own")[0] == 200
    assert [one.message for one in caplog.records] == [
        "a request for metrics or status came with a wrong password or token"
    ]


def test_credentials_that_are_changed_count_at_once_and_bad_ones_leave_the_old(start, credentials, caplog):
    server = start(credentials_file=credentials)
    old, new = basic("prometheus", PASSWORD), basic("prometheus", "another horse entirely")
    assert ask(server, old)[0] == 200
    Path(credentials).write_text("basic prometheus in-clear-text\n")
    assert ask(server, old)[0] == 200
    assert "keeping the credentials read before" in caplog.text
    assert "in-clear-text" not in caplog.text
    Path(credentials).write_text(line_of("basic", "prometheus", "another horse entirely"))
    assert ask(server, old)[0] == 401
    assert ask(server, new)[0] == 200


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: path.unlink(), "expected a readable file"),
        (lambda path: path.write_text("# nobody\n"), "expected 1 to 8 credentials, found 0"),
        (lambda path: path.write_text(path.read_text() * 5), "expected 1 to 8 credentials, found 10"),
        (
            lambda path: path.write_text("prometheus:hunter22\n"),
            "credentials:1 of metrics.credentials_file: expected `basic",
        ),
        (lambda path: path.write_text(path.read_text().replace(":16:", ":17:")), "credentials:2"),
        (lambda path: path.write_text(path.read_text().replace(":16:", ":1048576:")), "credentials:2"),
        (lambda path: path.write_text(path.read_text().replace("scrypt", "md5")), "credentials:2"),
        (lambda path: path.write_text("x" * 70_000), "at most 65536 bytes"),
        (lambda path: path.chmod(0o644), "with mode 644; chmod 600 it"),
        (lambda path: path.chmod(0o620), "with mode 620; chmod 600 it"),
    ],
)
def test_a_file_of_credentials_that_cannot_be_used_is_an_error_that_repeats_no_line(start, credentials, change, says):
    change(Path(credentials))
    with pytest.raises(ConfigurationError) as caught:
        start(credentials_file=credentials)
    assert says in str(caught.value)
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize(("name", "secret"), [("", PASSWORD), ("a b", PASSWORD), ("a:b", PASSWORD), ("a", "short")])
def test_no_line_is_made_of_what_cannot_be_a_name_or_a_password(name, secret):
    with pytest.raises(ValueError, match=r"name|length"):
        line_of("basic", name, secret)


def test_a_line_is_as_dear_as_it_should_be_and_no_two_are_alike():
    one, other = line_of("basic", "prometheus", PASSWORD), line_of("basic", "prometheus", PASSWORD)
    assert one != other
    assert one.startswith("basic prometheus scrypt:16384:8:1:")
    assert _entry(one, "file:1").fits(PASSWORD)
    assert not _entry(one, "file:1").fits(PASSWORD + "x")


def trusting(authority):
    context = authority.trusted()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def test_it_speaks_tls_and_only_that_with_a_certificate(start, credentials, authority, capfd):
    certificate, key = authority.issue("metrics", host="DNS:localhost")
    server = start("0.0.0.0:0", credentials_file=credentials, cert_file=str(certificate), key_file=str(key))
    assert get(server, "/healthz", "localhost", "https", trusting(authority))[0] == 200
    assert get(server, "/metrics", "localhost", "https", trusting(authority))[0] == 401
    with pytest.raises((urllib.error.URLError, ConnectionError, http.client.HTTPException)):
        get(server, "/healthz")
    assert server._server._tls.minimum_version is ssl.TLSVersion.TLSv1_2
    assert "Traceback" not in capfd.readouterr().err


def test_a_certificate_that_is_renewed_is_used_and_a_bad_one_is_not(start, authority, monkeypatch, caplog):
    monkeypatch.setattr("agent.adapters.http._LOOK_S", 0.0)
    certificate, key = authority.issue("old", host="DNS:localhost")
    server = start(cert_file=str(certificate), key_file=str(key))

    def served():
        plain = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        with trusting(authority).wrap_socket(plain, server_hostname="localhost") as secured:
            return dict(one for rdn in secured.getpeercert()["subject"] for one in rdn)["commonName"]

    assert served() == "old"
    new_certificate, new_key = authority.issue("new", host="DNS:localhost")
    new_key.replace(key)
    wait_until(lambda: "keeping the certificate read before" in caplog.text)
    assert served() == "old"
    new_certificate.replace(certificate)
    wait_until(lambda: served() == "new")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda key: key.unlink(), "metrics.cert_file: expected a certificate and its key"),
        (lambda key: key.write_text("rubbish"), "metrics.cert_file: expected a certificate and its key"),
        (lambda key: key.chmod(0o604), "metrics.key_file: expected a file that others can neither read nor change"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_an_error(start, authority, change, says):
    certificate, key = authority.issue("spoiled", host="DNS:localhost")
    change(key)
    with pytest.raises(ConfigurationError, match=says):
        start(cert_file=str(certificate), key_file=str(key))


@pytest.mark.parametrize("secured", [False, True])
def test_many_that_never_finish_their_request_keep_nobody_waiting(start, authority, secured):
    certificate, key = authority.issue("metrics", host="DNS:localhost")
    settings = {"cert_file": str(certificate), "key_file": str(key)} if secured else {}
    server = start(**settings)
    more = (("localhost", "https", trusting(authority))) if secured else ()
    slow = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(3 * MAX_WAITING)]
    try:
        for one in slow:
            with contextlib.suppress(OSError):  # the first were thrown out
                one.sendall(b"\x16" if secured else b"GET /metrics HTTP/1.1\r\nX-Slow: ")
        for _ in range(3):
            status, _, body = get(server, "/metrics", *more)
            assert (status, "things_total 3.0" in body) == (200, True)
        wait_until(lambda: len(of_requests()) <= MAX_WAITING + 1)
    finally:
        for one in slow:
            one.close()


def of_requests():
    return [thread for thread in threading.enumerate() if "process_request" in thread.name]


def test_who_trickles_is_cut_off(start, monkeypatch):
    monkeypatch.setattr("agent.adapters.http.REQUEST_S", 0.2)
    slow = socket.create_connection(("127.0.0.1", start().port), timeout=30)

    def ended():
        try:
            slow.sendall(b"G")  # often enough for it never to be silent
        except ConnectionError:
            return True
        return False

    with slow:
        wait_until(ended, 30)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
        b"GET /metrics HTTP/1.1\r\nX: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n",
        b"GET /metrics?" + b"y" * 60_000 + b" HTTP/1.1\r\n\r\n",
        b"\0" * 60_000,
    ],
)
def test_a_request_that_is_too_large_is_not_answered_with_anything(start, request_):
    server = start()
    answer = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as rude:
        with contextlib.suppress(ConnectionError):
            rude.sendall(request_)
        with contextlib.suppress(ConnectionError):  # a reset may overtake the answer
            while piece := rude.recv(1000):
                answer += piece
    assert b"things_total" not in answer
    assert get(server, "/metrics")[0] == 200
