"""What a backend can do, and which one an array needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

from diffusolve.arrays import Array, is_torch, namespace

__all__ = ["Array", "Backend", "Combine", "backend_of"]

Combine = Callable[[Mapping[str, Array]], Array]
"""A linear combination of registers with everything but the registers' values settled."""


class Backend(Protocol):
    """The operations on arrays that running a plan takes."""

    def specialised(self, *like: Array) -> Backend: ...
    def combine(self, sources: Sequence[Array], coefficients: Sequence[float]) -> Array: ...
    def bind(self, sources: Sequence[str], coefficients: Sequence[float], spent: Sequence[str] = ()) -> Combine: ...
    def zeros(self, like: Array) -> Array: ...
    def widen(self, x: Array) -> Array: ...
    def cast(self, x: Array, like: Array) -> Array: ...
    def timesteps(self, timesteps: Sequence[float], like: Array) -> list[Array]: ...
    def error_ratio(self, low: Array, high: Array, previous: Array, rtol: float, atol: float) -> float: ...
    def is_floating(self, x: Array) -> bool: ...


def backend_of(x: Array) -> Backend:
    """The backend for arrays like `x`.

    Raises:
        TypeError: `x` is no array of a library with the Python array API.
    """
    return _torch_backend() if is_torch(x) else _array_backend(namespace(x))


@lru_cache(maxsize=1)
def _torch_backend() -> Backend:
    from diffusolve.backends.torch_eager import TorchBackend

    return TorchBackend()


@lru_cache(maxsize=8)
def _array_backend(namespace: Any) -> Backend:
    from diffusolve.backends.array_api import ArrayBackend

    return ArrayBackend(namespace)
