"""Where the broker is, how we prove who we are, and what its refusals mean in words."""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
from enum import StrEnum
from typing import Final
from urllib.parse import quote, urlsplit

import msgspec

from agent.core.types import Duration, Settings, Size
from agent.credentials import check_secret_file, read_secret
from agent.errors import ConfigurationError, Problem

logger = logging.getLogger(__name__)

# MQTT 5's reasons against which only the user can do something: bad user name or password, not authorized,
# banned, bad authentication method. paho translates MQTT 3.1.1's codes 4 and 5 into the first two.
BAD_CREDENTIALS: Final = frozenset({134, 135, 138, 140})
WEBSOCKET_PATH: Final = "/mqtt"  # of ws:// and wss:// without a path: what most brokers use, and Mosquitto allows any
_PORTS: Final = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
UNVERIFIED: Final = (
    "broker.verify_certificate is `never`: whoever is between the agent and the broker can read and change everything"
)
_VARIABLE: Final = re.compile("[A-Z_][A-Z0-9_]*")
_NOT_NOW: Final = (9, 10)  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED
_HINTS: Final = {
    132: " (try broker.protocol: 3.1.1)",
    158: " (it has no shared subscriptions: leave $share/GROUP/ out of the topic)",
    142: " (does another agent use the same agent.id or broker.client_id?)",
}


class Protocol(StrEnum):
    """MQTT version spoken to the broker."""

    V5 = "5"
    V311 = "3.1.1"


class CertificateCheck(StrEnum):
    """Whether the broker's certificate and host name are verified."""

    ALWAYS = "always"
    NEVER = "never"


class BrokerSettings(Settings, frozen=True):
    """Where the broker is and how we prove who we are. The password itself is never part of the settings.

    `fallback` are brokers that are tried, in this order, while that at `url` is away.

    `receive_maximum` is how many QoS 1 messages the broker may send before we acknowledge one (MQTT 5 only).
    On `dropped_topic` the broker counts what it has dropped for any of its clients.
    A publication of more than `max_message_size` is dropped, and acknowledged so that it does not return. Each `echo_s`
    the broker is to send us something of our own; 0: never.
    """

    url: str = "mqtt://localhost:1883"
    fallback: tuple[str, ...] = ()
    return_after_s: Duration = 60.0
    protocol: Protocol = Protocol.V5
    session_expiry_s: Duration = 86400.0
    keepalive_s: Duration = 30.0
    echo_s: Duration = 60.0
    client_id: str = ""  # default: "redshank-" and the agent's id
    username: str | None = None
    password_file: str | None = None
    password_env: str | None = None
    verify_certificate: CertificateCheck = CertificateCheck.ALWAYS
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    receive_maximum: int = 1000
    max_message_size: Size = 16 * 1024 * 1024
    dropped_topic: str | None = None


class Endpoint(msgspec.Struct, frozen=True):
    """A broker's address, taken apart. `path` is a WebSocket's, None without one."""

    host: str
    port: int
    tls: bool
    path: str | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "mqtt" if self.path is None else "ws"
        return f"{scheme}{'s' if self.tls else ''}://{host}:{self.port}{self.path or ''}"


def endpoint(url: str) -> Endpoint:
    """Return the address in `url`.

    Raises ConfigurationError for anything but mqtt[s]://host[:port] and ws[s]://host[:port][/path]. A URL with a user
    in it is refused without being repeated, because a password may follow; so is one with a query, where tokens stand.
    """
    expected = "mqtt://host:port or mqtts://host:port, or ws://host:port/path or wss://host:port/path"
    if "@" in url:
        raise _unusable("broker.url", expected, "a user name in the URL", "use username and password_file")
    if "?" in url or "#" in url:
        raise _unusable("broker.url", expected, "a query or fragment in the URL", "leave it out")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _unusable("broker.url", expected, f"{url!r} ({error})") from None
    web = parts.scheme in ("ws", "wss")
    if parts.scheme not in _PORTS or not parts.hostname or port == 0 or not (web or not parts.path.strip("/")):
        raise _unusable("broker.url", expected, repr(url))
    path = quote(parts.path or WEBSOCKET_PATH, safe="/%:!$&'()*+,;=~") if web else None
    return Endpoint(parts.hostname, port or _PORTS[parts.scheme], parts.scheme in ("mqtts", "wss"), path)


def password(settings: BrokerSettings) -> str | None:
    """Return the password from its file (one trailing newline removed) or variable, None if neither is set.

    Raises ConfigurationError if it cannot be read, or if others can read the file. Nothing of a password is in it, also
    where that was written in the place of the variable's name.
    """
    if settings.password_file is not None:
        try:
            text = read_secret(settings.password_file, "broker.password_file").decode()
        except UnicodeDecodeError:
            raise _unusable("broker.password_file", "UTF-8 text", "other bytes") from None
        return text.removesuffix("\n").removesuffix("\r")
    name = settings.password_env
    if name is not None:
        if name not in os.environ:
            shown = name if _VARIABLE.fullmatch(name) else "(upper-case letters, digits and _)"
            raise _unusable("broker.password_env", f"a variable {shown}", "none in the environment")
        return os.environ[name]
    return None


def tls_context(settings: BrokerSettings) -> ssl.SSLContext:
    """Return the TLS settings: 1.2 or newer, certificate and host name verified, the system's CAs by default.

    Raises ConfigurationError if a file cannot be used, or if others can read the key. Warns where nothing is verified.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:
        raise _unreadable("ca_file", settings.ca_file or "", error) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Python 3.13 also refuses a CA without the extension of key usage, as many home-made ones are. The rules should not
    # change with the Python: as OpenSSL's own default, and as the broker's own clients do.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if settings.verify_certificate is CertificateCheck.NEVER:
        logger.warning(UNVERIFIED)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.cert_file is not None:
        check_secret_file(settings.key_file or settings.cert_file, "broker.key_file")
        try:
            # An empty password makes an encrypted key an error; otherwise OpenSSL would ask at the terminal.
            context.load_cert_chain(settings.cert_file, settings.key_file, password="")
        except OSError as error:
            raise _unreadable("cert_file", f"{settings.cert_file}, {settings.key_file}", error) from None
    return context


def in_words(error: BaseException, address: Endpoint) -> str:
    """Return why a connection failed, as an operator would say it."""
    match error:
        case ssl.SSLCertVerificationError():
            clock = "; is this machine's clock right?" if error.verify_code in _NOT_NOW else ""
            return f"the certificate of {address} is not trusted: {error.verify_message}{clock}"
        case ssl.SSLError():
            return f"TLS with {address} failed: {_reason(error, str(error))}"
        case socket.gaierror():
            return f"the host name {address.host!r} cannot be resolved: {error.strerror}"
        case ConnectionRefusedError():
            return f"nothing listens at {address} (connection refused)"
        case TimeoutError():
            return f"{address} does not answer"
        case OSError():
            return f"{address}: {error.strerror or error}"
        case _:
            return str(error)


def hint(reason_code: int) -> str:
    """Return what to do about a refusal, with a leading blank; empty where nothing helps."""
    return _HINTS.get(reason_code, "")


def _reason(error: ssl.SSLError, otherwise: str) -> str:
    """Return OpenSSL's reason as words; an error that Python made itself has none."""
    return str(getattr(error, "reason", None) or otherwise).lower().replace("_", " ")


def _unreadable(key: str, path: str, error: OSError) -> ConfigurationError:
    why = error.strerror or str(error)
    if isinstance(error, ssl.SSLError):
        why = f"not usable PEM ({_reason(error, 'unknown reason')})"
    return _unusable(f"broker.{key}", "a readable file", f"{path}: {why}")


def _unusable(where: str, expected: str, found: str, remedy: str = "") -> ConfigurationError:
    return ConfigurationError([Problem(where=where, expected=expected, found=found, remedy=remedy)])
