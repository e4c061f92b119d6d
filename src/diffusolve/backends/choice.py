"""The choice of the backend that executes a plan: one for all arrays of a library, or the fastest for those at hand."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from diffusolve.arrays import Array, is_torch, namespace
from diffusolve.backends.backend import Backend

if TYPE_CHECKING:
    from diffusolve.backends.torch_eager import TorchBackend

__all__ = ["backend_of", "fastest", "fused_backend"]


def backend_of(x: Array) -> Backend:
    """The backend for all arrays of the library of `x`.

    Raises:
        TypeError: `x` is no array of a library with the Python array API.
    """
    return _torch_backend() if is_torch(x) else _array_backend(namespace(x))


def fastest(x: Array, output: Array, simple: bool = False) -> Backend:
    """The fastest backend for samples and outputs like these, and a plan whose every stage is one simple sum or not."""
    if is_torch(x):
        for backend in _faster_torch_backends():
            if backend.suits(simple) and backend.takes(x, output):
                return backend
    return backend_of(x)


@lru_cache(maxsize=1)
def fused_backend() -> Backend:
    """The backend that compiles a kernel for each stage. Only for torch."""
    from diffusolve.backends.fused import FusedBackend

    return FusedBackend()


@lru_cache(maxsize=1)
def _torch_backend() -> Backend:
    from diffusolve.backends.torch_eager import TorchBackend

    return TorchBackend()


@lru_cache(maxsize=1)
def _faster_torch_backends() -> tuple[TorchBackend, ...]:
    """Backends for some tensors only, the fastest first."""
    import torch

    from diffusolve.backends.torch_eager import HALF, TorchBackend

    single, double = torch.float32, torch.float64
    pairs = [(single, single), (double, double), *((sample, half) for half in HALF for sample in (half, single))]
    found = [TorchBackend(dtype) for dtype in (single, double)]
    with suppress(ImportError):  # installed without a compiler
        from diffusolve.backends.native import NativeBackend

        found = [*(NativeBackend(*pair) for pair in pairs), *found]
    return tuple(found)


@lru_cache(maxsize=8)
def _array_backend(namespace: Any) -> Backend:
    from diffusolve.backends.array_api import ArrayBackend

    return ArrayBackend(namespace)
