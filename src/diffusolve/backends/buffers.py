"""Memory that a run writes results to again, once nobody holds what was there.

A process that frees arrays of megabytes gives their pages back to the system, and whoever asks for the next array waits
for pages of zeros: several times as long as a step of a run takes. So a run keeps what it has allocated.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffusolve.backends.lowered import NEXT

__all__ = ["Buffers", "buffers_in"]

SMALLEST = 1 << 20
"""Bytes of the smallest result that a buffer is kept for; smaller ones come from memory that the process has anyway."""

_storages_held: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)


def buffers_in(places: list[Any], bytes_of_result: int) -> Buffers | None:
    """The buffers of the run whose places these are, new ones if it has none; None where results are small.

    None too where PyTorch does not tell who holds a storage.
    """
    if bytes_of_result < SMALLEST or _storages_held is None:
        return None
    buffers: Buffers | None = places[NEXT]
    if buffers is None:
        buffers = places[NEXT] = Buffers()
    return buffers


class _Buffer(NamedTuple):
    """Memory, by a tensor that nobody else has seen, and the numbers of references to it when nobody has."""

    whole: Tensor
    storage: torch.UntypedStorage
    address: int
    size: int
    unheld: tuple[int, int]

    def holders(self) -> tuple[int, int]:
        """The numbers of tensors, views, NumPy arrays and others that share the memory, and of storage objects."""
        assert _storages_held is not None
        return _storages_held(self.storage._cdata), sys.getrefcount(self.storage)

    def is_free(self) -> bool:
        """True if nobody but this object can see the memory."""
        return self.holders() == self.unheld

    def is_whole(self) -> bool:
        """True unless somebody resized the memory, or moved it to where other processes see it."""
        return self.whole.data_ptr() == self.address and self.storage.nbytes() == self.size


class Buffers:
    """The buffers of a run, or of several that may be stepped at once. Copies and pickles of them are without any."""

    def __init__(self) -> None:
        self._buffers: list[_Buffer] = []
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[Buffers], tuple[()]]:
        return Buffers, ()

    def empty_like(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """A tensor of the shape of `x`, contiguous, with memory that nobody else holds: kept from before, or new."""
        with self._lock:
            return self._empty_like(x, dtype)

    def _empty_like(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        for index, buffer in enumerate(self._buffers):
            whole = buffer.whole
            if whole.dtype is dtype and whole.shape == x.shape and buffer.is_free():
                if buffer.is_whole() and whole.is_inference() is torch.is_inference_mode_enabled():
                    return whole.detach()
                del self._buffers[index]
                break
        whole = torch.empty_like(x, dtype=dtype)
        storage = whole.untyped_storage()
        buffer = _Buffer(whole, storage, whole.data_ptr(), storage.nbytes(), (0, 0))
        del whole, storage
        buffer = buffer._replace(unheld=buffer.holders())
        self._buffers.append(buffer)
        return buffer.whole.detach()
