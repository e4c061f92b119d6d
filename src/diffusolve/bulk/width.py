"""The number of rows that the network is asked about at once, found while it works: more, if that is the same bits."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial
from math import inf
from pathlib import Path

from diffusolve.arrays import Array, concatenate, is_torch, namespace, to_numpy

__all__ = ["Width", "is_out_of_memory"]

MOST = 1024
"""Rows beyond which no more are tried."""

GAIN = 0.9
"""A call of twice as many rows is worth it if it takes at most this part of the time of two."""

EVERY = 8
"""Of so many calls one is made both ways, so that trying costs an eighth at most."""

ROUNDS = 3
"""Calls that are made both ways before any is preferred: of each way the quickest counts."""

COMPARED = 1 << 16
"""Numbers that were the same bits both ways before a size is trusted. Where sums are rounded to half precision, another
order of adding shows in one number of a few thousand."""

SPARE = 4
"""On the CPU a size is tried only if this many times the memory that the process ever had is left on the machine."""


class Width:
    """The number of rows of one shape in a call of the network: `call_size`, or twice that, and so on.

    What it is does not show in any row, since a size is used only after the network was called both ways on the same
    rows, again and again, and said the same bits. It is not tried again after a size that was refused, for other bits,
    for no gain, or for memory.

    Args:
        call_size: the number that rows' bits are those of.
        is_fixed: try no other.
    """

    def __init__(self, call_size: int, is_fixed: bool = False) -> None:
        self.call_size = call_size
        self.size = call_size
        """The most rows that the network is called on for good."""
        self.trial: int | None = None
        """The size that is being tried, which is twice `size`; None if there will be no more."""
        self.why = ""
        """The reason for no more."""
        self._apart = self._together = inf
        self._rounds = self._compared = 0
        self._calls = 0
        if not is_fixed:
            self._try()

    @property
    def wanted(self) -> int:
        """The number of rows to have ready for a call."""
        return self.trial or self.size

    def is_to_be_tried(self, count: int) -> bool:
        """True if the next call, for `count` rows, is one that is made both ways."""
        if self.trial is None or count < self.trial:
            return False
        self._calls += 1
        return self._calls % EVERY == 0

    def holding(self, count: int) -> int:
        """The size of the next call for `count` rows: the least that holds them, or the largest."""
        size = self.call_size
        while size < min(count, self.size):
            size *= 2
        return size

    def tried(self, ask: Callable[[int, int], Array]) -> Array:
        """The outputs for as many rows as are tried, by calls of `size`, after these were compared with one call.

        Args:
            ask: asks the network, from a row on, about so many.
        """
        assert self.trial is not None
        apart, seconds = _timed(lambda: concatenate([ask(0, self.size), ask(self.size, self.size)]))
        if not _has_memory_for_more(apart):
            self.refuse("memory is short")
            return apart
        try:
            together, took = _timed(partial(ask, 0, self.trial))
        except Exception as error:
            self.refuse("memory is short" if is_out_of_memory(error) else f"it failed with {error!r}")
            return apart
        self._compare(apart, seconds, together, took)
        return apart

    def _compare(self, apart: Array, seconds: float, together: Array, took: float) -> None:
        if not bool(namespace(apart).all(together == apart)):
            self.refuse("the bits are others")
            return
        self._rounds += 1
        self._compared += apart.reshape(-1).shape[0]
        self._apart, self._together = min(self._apart, seconds), min(self._together, took)
        if self._rounds >= ROUNDS and self._together > GAIN * self._apart:
            self.refuse("it is no faster")
        elif self._rounds >= ROUNDS and self._compared >= COMPARED:
            self.size *= 2
            self._try()

    def _try(self) -> None:
        """Begin to try twice the size."""
        self.trial = 2 * self.size if 2 * self.size <= MOST else None
        self._rounds = self._compared = 0
        self._apart = self._together = inf

    def refuse(self, why: str) -> None:
        """Try no other size."""
        self.trial, self.why = None, why

    def halve(self) -> bool:
        """Go back to half the size for lack of memory; False if it is `call_size` already."""
        self.refuse("memory is short")
        if self.size == self.call_size:
            return False
        self.size //= 2
        return True


def _timed(call: Callable[[], Array]) -> tuple[Array, float]:
    """Call `call`, on whatever device; the outputs, and the seconds until they were there."""
    begun = time.perf_counter()
    outputs = call()
    to_numpy(outputs.reshape(-1)[:1] == 0)  # there to be read once all is computed
    return outputs, time.perf_counter() - begun


def is_out_of_memory(error: BaseException) -> bool:
    """True of the errors by which Python, PyTorch and others say so."""
    told = str(error).lower()  # PyTorch's are RuntimeErrors, of the CPU's allocator "not enough memory"
    return isinstance(error, MemoryError) or "out of memory" in told or "not enough memory" in told


def _has_memory_for_more(like: Array) -> bool:
    """False if twice the rows might be too much for the memory of this machine, which ends processes without a word."""
    if is_torch(like) and like.device.type != "cpu":
        return True  # which says when it is full
    left = _memory_left()
    if left is None:
        return False
    import resource  # there is one where there is a number of bytes left

    return SPARE * 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss <= left


def _memory_left() -> int | None:
    """Bytes that this process may still take; None where that is not known."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        left = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
        with contextlib.suppress(OSError, ValueError):  # a container's limit, if there is one
            limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
            left = min(left, limit - used)
        return left
    return None
