"""Compressed payloads, never larger unpacked than payloads may be."""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from agent.adapters.payload.rejection import PayloadRejected, RejectReason
from agent.adapters.payload.settings import Compression

_GZIP: Final = 16 + zlib.MAX_WBITS
_MEMBERS: Final = 16  # in one payload: each costs a copy of what follows it
_WINDOW_LOG: Final = 23  # 8 MiB, what every zstd decoder should take (RFC 8878, 3.1.1.1.2); a frame may ask for 2 GiB
ZSTD_MODULE: Final = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"


@cache
def unpacker(compression: Compression, max_bytes: int) -> Callable[[bytes], bytes]:
    """Return what makes a payload plain, as it comes or unpacked. Raises ModuleNotFoundError if zstd is not installed.

    It raises PayloadRejected: MALFORMED, or TOO_LARGE beyond `max_bytes`, which are never made.
    """
    make, failure = _decompressor(compression)

    def plain(payload: bytes) -> bytes:
        if len(payload) > max_bytes:
            raise PayloadRejected(RejectReason.TOO_LARGE)
        return payload if make is None else unpacked(payload, make, failure, max_bytes)

    return plain


def _decompressor(compression: Compression) -> tuple[Callable[[], Any] | None, type[Exception]]:
    """Return what makes a decompressor, None if nothing is packed, and what it raises."""
    if compression is Compression.ZSTD:
        zstd = importlib.import_module(ZSTD_MODULE)
        options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
        return lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError
    return (lambda: zlib.decompressobj(_GZIP)) if compression is Compression.GZIP else None, zlib.error


def unpacked(payload: bytes, make: Callable[[], Any], error: type[Exception], max_bytes: int) -> bytes:
    """Unpack all that follows one another in a payload: gzip's members, zstd's frames."""
    found = b""
    for _ in range(_MEMBERS):
        one = make()
        try:
            found += one.decompress(payload, max_bytes + 1 - len(found))
        except error:
            raise PayloadRejected(RejectReason.MALFORMED) from None
        if len(found) > max_bytes:
            raise PayloadRejected(RejectReason.TOO_LARGE)
        if not one.eof:
            raise PayloadRejected(RejectReason.MALFORMED)
        payload = one.unused_data
        if not payload:
            return found
    raise PayloadRejected(RejectReason.MALFORMED)
