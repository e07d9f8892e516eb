"""Compressed payloads, never larger unpacked than payloads may be."""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Callable
from typing import Any, Final

from agent.adapters.payload.rejection import PayloadRejected, RejectReason
from agent.adapters.payload.settings import Compression

_GZIP: Final = 16 + zlib.MAX_WBITS
_MEMBERS: Final = 16  # in one payload: each costs a copy of what follows it
_WINDOW_LOG: Final = 23  # 8 MiB, what every zstd decoder should take (RFC 8878, 3.1.1.1.2); a frame may ask for 2 GiB
ZSTD_MODULE: Final = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"


def unpacker(compression: Compression, max_bytes: int) -> Callable[[bytes], bytes] | None:
    """Return what unpacks a payload, None if nothing does. Raises ModuleNotFoundError if zstd is not installed.

    It raises PayloadRejected: MALFORMED, or TOO_LARGE beyond `max_bytes`, which are never made.
    """
    if compression is Compression.GZIP:
        return lambda payload: unpacked(payload, lambda: zlib.decompressobj(_GZIP), zlib.error, max_bytes)
    if compression is Compression.ZSTD:
        zstd = importlib.import_module(ZSTD_MODULE)
        options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
        return lambda payload: unpacked(
            payload, lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError, max_bytes
        )
    return None


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
