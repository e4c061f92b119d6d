"""Keeping freed memory in the process, so that the operating system's pages are not what is measured."""

from __future__ import annotations

import ctypes
import platform
from functools import cache

__all__ = ["keep_freed_memory"]

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""

KEPT, LARGEST_KEPT = 1 << 30, 1 << 25
"""Bytes that may lie free in the end, and of the largest array that is ever kept, the most that glibc takes."""


@cache
def keep_freed_memory() -> bool:
    """Tell glibc to give nothing back to the system; whether it does.

    Without, it returns freed arrays of tens of megabytes now and then, depending on what lies behind them, and whoever
    asks for the next array waits milliseconds for pages of zeros. A process that has run a network has free memory.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(TRIM_THRESHOLD, KEPT) and mallopt(MMAP_THRESHOLD, LARGEST_KEPT))
