from __future__ import annotations

import errno
import socket
import ssl

import pytest

from agent.adapters.mqtt.broker import (
    BrokerSettings,
    CertificateCheck,
    Endpoint,
    endpoint,
    hint,
    in_words,
    password,
    tls_context,
)
from agent.errors import ConfigurationError

BROKER = Endpoint("broker.local", 1883, tls=False)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://broker.local", Endpoint("broker.local", 1883, tls=False)),
        ("mqtts://broker.local", Endpoint("broker.local", 8883, tls=True)),
        ("mqtt://127.0.0.1:1", Endpoint("127.0.0.1", 1, tls=False)),
        ("mqtts://[::1]:8884/", Endpoint("::1", 8884, tls=True)),
        ("ws://broker.local", Endpoint("broker.local", 80, tls=False, path="/mqtt")),
        ("wss://broker.local", Endpoint("broker.local", 443, tls=True, path="/mqtt")),
        ("wss://[::1]:9001/", Endpoint("::1", 9001, tls=True, path="/")),
        ("ws://broker:9001/a b/ü%20/ws", Endpoint("broker", 9001, tls=False, path="/a%20b/%C3%BC%20/ws")),
    ],
)
def test_a_url_names_host_port_tls_and_path(url, expected):
    found = endpoint(url)
    assert found == expected
    assert endpoint(str(found)) == found


@pytest.mark.parametrize(
    "url",
    ["", "broker", "http://broker", "mqtt://", "mqtt://broker:0", "mqtt://broker:x", "mqtt://broker/path", "ws:///x"],
)
def test_what_is_no_address_of_a_broker_is_refused(url):
    with pytest.raises(ConfigurationError, match=r"broker\.url: expected mqtt://host:port or mqtts://host:port"):
        endpoint(url)


@pytest.mark.parametrize("url", ["wss://broker/mqtt?token=secret", "mqtt://broker?secret", "ws://broker/mqtt#secret"])
def test_a_query_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigurationError) as caught:
        endpoint(url)
    assert "a query or fragment" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_password_in_a_url_is_refused_and_not_repeated():
    with pytest.raises(ConfigurationError) as caught:
        endpoint("mqtt://me:secret@broker")
    assert "use username and password_file" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("content", [b"pass word\n", b"pass word\r\n", b"pass word"])
def test_a_password_is_its_files_text_without_the_newline_at_its_end(tmp_path, content):
    path = tmp_path / "password"
    path.write_bytes(content)
    path.chmod(0o640)  # as systemd passes credentials on: read by the group
    assert password(BrokerSettings(password_file=str(path), password_env="NOT_ASKED")) == "pass word"


def test_a_password_may_stand_in_the_environment(monkeypatch):
    monkeypatch.setenv("REDSHANK_TEST_PASSWORD", "word")
    assert password(BrokerSettings(password_env="REDSHANK_TEST_PASSWORD")) == "word"
    assert password(BrokerSettings()) is None


def test_a_password_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("REDSHANK_TEST_PASSWORD", raising=False)
    strange = tmp_path / "strange"
    strange.write_bytes(b"\xff")
    strange.chmod(0o600)
    open_, writable = tmp_path / "open", tmp_path / "writable"
    for path, mode in ((open_, 0o604), (writable, 0o620)):
        path.write_text("s3cret")
        path.chmod(mode)
    for settings, words in (
        (BrokerSettings(password_file=str(tmp_path / "none")), "broker.password_file: expected a readable file"),
        (BrokerSettings(password_file=str(strange)), "expected UTF-8 text"),
        (BrokerSettings(password_env="REDSHANK_TEST_PASSWORD"), "expected a variable REDSHANK_TEST_PASSWORD"),
        (BrokerSettings(password_env="s3cret"), "expected a variable \\(upper-case letters"),
        (BrokerSettings(password_file=str(open_)), "neither read nor change, found .*open with mode 604; chmod 600 it"),
        (BrokerSettings(password_file=str(writable)), "with mode 620"),
    ):
        with pytest.raises(ConfigurationError, match=words) as caught:
            password(settings)
        assert "s3cret" not in str(caught.value)


def test_certificates_that_cannot_be_used_are_named(tmp_path, authority):
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("not PEM")
    certificate, key = authority.issue("client")
    other, _ = authority.issue("other")
    for settings, words in (
        ({"ca_file": str(tmp_path / "none.pem")}, "broker.ca_file: expected a readable file, found .*none.pem"),
        ({"ca_file": str(rubbish)}, "not usable PEM"),
        ({"cert_file": str(tmp_path / "none.pem")}, "broker.cert_file"),
        ({"cert_file": str(other), "key_file": str(key)}, r"not usable PEM \(key values mismatch\)"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            tls_context(BrokerSettings(**settings))
    context = tls_context(
        BrokerSettings(ca_file=str(authority.certificate), cert_file=str(certificate), key_file=str(key))
    )
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    key.chmod(0o640)
    tls_context(BrokerSettings(cert_file=str(certificate), key_file=str(key)))
    key.chmod(0o644)
    with pytest.raises(ConfigurationError, match=r"broker\.key_file: .* with mode 644; chmod 600 it"):
        tls_context(BrokerSettings(cert_file=str(certificate), key_file=str(key)))
    key.chmod(0o600)


def test_a_certificate_goes_unverified_only_where_that_is_said_and_each_start_says_so(caplog):
    tls_context(BrokerSettings())
    assert caplog.text == ""
    context = tls_context(BrokerSettings(verify_certificate=CertificateCheck.NEVER))
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)
    assert "whoever is between the agent and the broker can read and change everything" in caplog.text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "TLS with"),
        (socket.gaierror(-2, "Name or service not known"), "the host name 'broker.local' cannot be resolved"),
        (ConnectionRefusedError(), "nothing listens at"),
        (TimeoutError(), "does not answer"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "No route to host"),
        (ValueError("odd"), "odd"),
    ],
)
def test_failures_are_told_in_words(error, words):
    assert words in in_words(error, BROKER)


@pytest.mark.parametrize(("code", "asked"), [(9, True), (10, True), (18, False)])
def test_a_certificate_that_is_not_valid_now_asks_for_the_clock(code, asked):
    error = ssl.SSLCertVerificationError()
    error.verify_code, error.verify_message = code, "certificate is not yet valid"
    assert ("is this machine's clock right?" in in_words(error, BROKER)) is asked


def test_some_refusals_come_with_a_hint():
    assert "protocol: 3.1.1" in hint(132)
    assert hint(0) == ""
