"""What a run frees stays in the process until the run ends.

Every step allocates and frees the same large tensors. glibc hands each back to the system, which maps and zeroes it
again, page by page: a tenth to a fifth of a step on a CPU.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Options of mallopt by their numbers in malloc.h, in bytes but for the first, a count of mappings.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_KEPT = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: (1 << 31) - 1, _M_TOP_PAD: 256 << 20}
_USUAL = {_M_MMAP_MAX: 1 << 16, _M_TRIM_THRESHOLD: 64 << 20, _M_TOP_PAD: 128 << 10, _M_MMAP_THRESHOLD: 32 << 20}
"""Where glibc's own adaptation ends."""


@contextmanager
def kept_memory() -> Iterator[None]:
    """While entered, freed memory is kept for the next step; on leaving, what is free goes back to the system.

    Does nothing where the C library is another than glibc, or where the user's environment (MALLOC_..., GLIBC_TUNABLES)
    has settled the matter.
    """
    libc = _glibc()
    if libc is None or any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        yield
        return
    for option, value in _KEPT.items():
        libc.mallopt(option, value)
    try:
        yield
    finally:
        for option, value in _USUAL.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)


def _glibc() -> Any:
    """The process's C library, or None if it is not glibc."""
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no process-wide library
        return None
    return libc if hasattr(libc, "gnu_get_libc_version") else None
