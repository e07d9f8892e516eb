"""Who may ask over HTTP: hashed passwords and tokens of a file, compared in constant time, and seldom.

A line of the file is `basic NAME HASH` or `bearer NAME HASH`; `redshank credential` makes it. HASH is
`scrypt:N:R:P:SALT:DIGEST` (RFC 7914), salt and digest in base64. Hashes cost time on purpose: what was right once is
remembered by a keyed digest, and what is wrong may be tried only so often.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import secrets
import threading
from enum import Enum, auto
from time import monotonic
from typing import Final

import msgspec

from agent.allowance import Allowance
from agent.credentials import read_secret, stamp
from agent.errors import ConfigurationError, Problem

logger = logging.getLogger(__name__)

KEY: Final = "metrics.credentials_file"
MAX_ENTRIES: Final = 8
MIN_SECRET_CHARACTERS: Final = 12
MAX_SECRET_CHARACTERS: Final = 1024
ATTEMPTS_PER_S: Final = 1.0  # with a secret that is not known yet
BURST: Final = 5.0
_SCHEMES: Final = ("basic", "bearer")
_COST: Final = (2**14, 8, 1)  # 16 MiB: what scrypt's author proposes for logins
_MAX_MEMORY_BYTES: Final = 64 * 1024 * 1024
_MOST_P: Final = 16
_SALT_BYTES, _DIGEST_BYTES = 16, 32
_REMEMBERED: Final = 64
_PATIENCE_S: Final = 2.0  # for another request's hash
_COMPLAIN_S: Final = 60.0


class Verdict(Enum):
    """What becomes of a request."""

    ADMITTED = auto()
    REFUSED = auto()
    LATER = auto()  # too many secrets were tried


class Entry(msgspec.Struct, frozen=True):
    """One line of the file: its parameters of scrypt, salt and digest."""

    scheme: str
    name: str
    cost: tuple[int, int, int]
    salt: bytes
    digest: bytes

    def fits(self, secret: str) -> bool:
        """Tell whether this is the secret, in the same time whatever it is."""
        return hmac.compare_digest(_scrypt(secret, self.salt, self.cost, len(self.digest)), self.digest)


def line_of(scheme: str, name: str, secret: str) -> str:
    """Return the file's line for a password or token. Raises ValueError if name or secret cannot be one."""
    if len(name.split()) != 1 or ":" in name or not name.isprintable():
        raise ValueError("name")
    if not MIN_SECRET_CHARACTERS <= len(secret) <= MAX_SECRET_CHARACTERS:
        raise ValueError("length")
    salt = secrets.token_bytes(_SALT_BYTES)
    made = [base64.b64encode(one).decode() for one in (salt, _scrypt(secret, salt, _COST, _DIGEST_BYTES))]
    return f"{scheme} {name} scrypt:" + ":".join([*map(str, _COST), *made])


def read_entries(path: str) -> list[Entry]:
    """Return the entries of a file. Raises ConfigurationError; no line is repeated."""
    entries: list[Entry] = []
    for number, line in enumerate(read_secret(path, KEY).decode(errors="replace").splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            entries.append(_entry(line, f"{path}:{number} of {KEY}"))
    if not 1 <= len(entries) <= MAX_ENTRIES:
        found = f"{len(entries)} in {path}"
        raise ConfigurationError(
            [Problem(KEY, f"1 to {MAX_ENTRIES} credentials", found, "make some by `redshank credential`")]
        )
    return entries


class Access:
    """Judges requests by their Authorization header; any thread may ask. The file is read again when it changed.

    `token` is for requests of this machine's own commands. Raises ConfigurationError if the file cannot be used.
    """

    def __init__(self, file: str, token: str) -> None:
        self._file, self._own = file, f"Bearer {token}".encode()
        self._entries, self._stamp = read_entries(file), stamp(file)
        self._key = secrets.token_bytes(32)
        self._known: set[bytes] = set()
        self._lock = threading.Lock()
        self._attempts = Allowance(BURST, ATTEMPTS_PER_S)
        self._complained_at = -_COMPLAIN_S

    def judge(self, authorization: str | None) -> Verdict:
        """Return what becomes of a request with this header."""
        if authorization is None or len(authorization) > 2 * MAX_SECRET_CHARACTERS:
            return Verdict.REFUSED
        given = authorization.encode(errors="replace")
        if hmac.compare_digest(given, self._own):
            return Verdict.ADMITTED
        self._read_again()
        digest = hashlib.blake2b(given, key=self._key).digest()
        if digest in self._known:
            return Verdict.ADMITTED
        presented = _presented(authorization)
        if presented is None:
            return Verdict.REFUSED
        if not self._lock.acquire(timeout=_PATIENCE_S):  # one hash at a time: each takes a core and 16 MiB
            return Verdict.LATER
        try:
            return self._try(digest, *presented)
        finally:
            self._lock.release()

    def _try(self, digest: bytes, scheme: str, name: str | None, secret: str) -> Verdict:
        now = monotonic()
        if not self._attempts.take(now):
            return Verdict.LATER
        asked = [one for one in self._entries if one.scheme == scheme and name in (None, one.name)]
        if not asked:
            self._entries[0].fits(secret)  # an unknown name takes as long as a known one
        elif any([one.fits(secret) for one in asked]):  # noqa: C419  all are tried: which one it is stays unknown, too
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known.add(digest)
            self._attempts.give_back()
            return Verdict.ADMITTED
        if now - self._complained_at >= _COMPLAIN_S:
            self._complained_at = now
            logger.warning("a request for metrics or status came with a wrong password or token")
        return Verdict.REFUSED

    def _read_again(self) -> None:
        found = stamp(self._file)
        if found == self._stamp:
            return
        with self._lock:
            if found == self._stamp:
                return
            self._stamp = found
            try:
                self._entries = read_entries(self._file)
            except ConfigurationError as error:
                logger.warning("keeping the credentials read before: %s", error)
            else:
                self._known = set()


def _presented(authorization: str) -> tuple[str, str | None, str] | None:
    """Return scheme, name and secret of the header (RFC 7617, RFC 6750), None where it has none."""
    scheme, _, rest = authorization.partition(" ")
    rest = rest.strip()
    if scheme.lower() == "bearer" and rest:
        return "bearer", None, rest
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, secret = base64.b64decode(rest, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None
    return ("basic", name, secret) if colon else None


def _entry(line: str, where: str) -> Entry:
    try:
        scheme, name, hashed = line.split()
        kind, *cost, salt, digest = hashed.split(":")
        n, r, p = (int(one) for one in cost)
        entry = Entry(scheme, name, (n, r, p), *(base64.b64decode(one, validate=True) for one in (salt, digest)))
    except ValueError:  # a decoder's error is one, too
        entry = None
    if entry is None or kind != "scrypt" or scheme not in _SCHEMES or not _computable(entry):
        expected = "`basic NAME HASH` or `bearer NAME HASH`"
        raise ConfigurationError([Problem(where, expected, "another line", "make it by `redshank credential`")])
    return entry


def _computable(entry: Entry) -> bool:
    """Tell whether scrypt takes these parameters, and is worth it."""
    n, r, p = entry.cost
    sized = r >= 1 and 1 <= p <= _MOST_P and n >= 2 and n & (n - 1) == 0 and 128 * n * r <= _MAX_MEMORY_BYTES // 2  # noqa: PLR2004  RFC 7914
    return sized and len(entry.salt) >= _SALT_BYTES // 2 and _DIGEST_BYTES <= len(entry.digest) <= 2 * _DIGEST_BYTES


def _scrypt(secret: str, salt: bytes, cost: tuple[int, int, int], length: int) -> bytes:
    n, r, p = cost
    return hashlib.scrypt(
        secret.encode(errors="surrogateescape"), salt=salt, n=n, r=r, p=p, maxmem=_MAX_MEMORY_BYTES, dklen=length
    )
