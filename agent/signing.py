"""Signatures of encoder bundles: Ed25519 (RFC 8032) over the manifest, which has the digest of every file that is used.

Needs the extra `signing` (the package `cryptography`), and only where a key is named.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.core.types import Settings
from agent.credentials import read_secret
from agent.errors import BundleError, SigningError

if TYPE_CHECKING:
    from collections.abc import Sequence

SIGNATURE: Final = "manifest.sig"
PREFIX: Final = "ed25519:"
_KEY_BYTES: Final = 32
_CONTEXT: Final = b"redshank encoder bundle\0"  # so that a signature of something else is none of a bundle


class EncodersSettings(Settings, frozen=True):
    """Whose encoder bundles are loaded, beside those that came with the package; without a key everybody's."""

    trusted_keys: tuple[str, ...] = ()


def is_key(text: str) -> bool:
    """Tell whether this is a public key as `redshank-convert keygen` prints it."""
    try:
        raw = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return False
    return text.startswith(PREFIX) and len(raw) == _KEY_BYTES


def check_signature(where: Path, manifest: bytes, signature: bytes | None, trusted: Sequence[str]) -> None:
    """Raise BundleError unless one of the trusted keys has signed the manifest's bytes.

    `signature` is the content of the bundle's file SIGNATURE, None if it has none. Raises SigningError if the package
    that checks signatures is not installed.
    """
    ed25519, exceptions = _cryptography()
    if signature is None:
        raise BundleError(
            f"{where}: expected a signature of one of encoders.trusted_keys in {SIGNATURE}, found none; "
            "sign it by `redshank-convert sign`, or install a bundle that is signed"
        )
    try:
        raw = base64.b64decode(signature.strip().removeprefix(PREFIX.encode()), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    for key in trusted:
        public = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(key.removeprefix(PREFIX)))
        try:
            public.verify(raw, _CONTEXT + manifest)
        except exceptions.InvalidSignature:
            continue
        return
    raise BundleError(
        f"{where}: expected a signature of one of encoders.trusted_keys, found one of another key or of "
        "another manifest; install the bundle again, and do not use this one"
    )


def generate_key(path: Path) -> str:
    """Write a new private key (PEM, readable by its owner only); return the public one. Raises OSError if it exists."""
    ed25519, _ = _cryptography()
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415  needs the extra

    private = ed25519.Ed25519PrivateKey.generate()
    content = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    return _text(private.public_key().public_bytes_raw())


def sign(manifest: bytes, key_file: Path) -> tuple[bytes, str]:
    """Return the content of SIGNATURE for a manifest, and the public key that checks it.

    Raises SigningError if the key cannot be used, ConfigurationError if others can read its file.
    """
    ed25519, _ = _cryptography()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415  needs the extra

    try:
        private = load_pem_private_key(read_secret(str(key_file), "--key"), password=None)
    except (ValueError, TypeError):  # what it says may have parts of the key
        private = None
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise SigningError(
            f"{key_file}: expected a private key made by `redshank-convert keygen`, found something else"
        )
    signature = private.sign(_CONTEXT + manifest)
    return f"{_text(signature)}\n".encode(), _text(private.public_key().public_bytes_raw())


def _text(raw: bytes) -> str:
    return PREFIX + base64.b64encode(raw).decode()


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography import exceptions  # noqa: PLC0415  needs the extra
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415  as above
    except ModuleNotFoundError as error:
        raise SigningError(
            f"signatures of encoder bundles need {error.name}, which is not installed; pip install 'redshank[signing]'"
        ) from error
    return ed25519, exceptions
