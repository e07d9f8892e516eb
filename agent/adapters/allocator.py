"""Lets memory that numpy frees go back to the system.

glibc raises the size from which it maps memory each time a large array is freed, and keeps what lies below in heaps
that only shrink from the top, one for each thread. With 100 streams restored that was 10 MB more (docs/benchmarks.md).
"""

from __future__ import annotations

import ctypes
from typing import Final

# malloc.h
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_LARGE_BYTES: Final = 128 * 1024
_TRIM_BYTES: Final = 1024 * 1024


def return_memory() -> bool:
    """Fix the allocator's thresholds; tell whether this C library has them. To be called before threads begin."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {_M_MMAP_THRESHOLD: _LARGE_BYTES, _M_TRIM_THRESHOLD: _TRIM_BYTES, _M_ARENA_MAX: 1}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
