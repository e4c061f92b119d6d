"""What a backend can do, and which one an array needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from math import inf
from typing import Any, Protocol

from diffusolve.arrays import Array, is_torch, namespace
from diffusolve.backends.program import Instruction

__all__ = ["Array", "Backend", "Combine", "UpdateRegisters", "backend_of", "fused_backend", "one_by_one"]

Combine = Callable[[Mapping[str, Array]], Array]
"""A linear combination of registers with everything but the registers' values settled."""

UpdateRegisters = Callable[[dict[str, Array]], None]
"""Instructions with everything but the registers' values settled: writes their registers."""


class Backend(Protocol):
    """The operations on arrays that running a plan takes."""

    def specialised(self, x: Array, output: Array, simple: bool) -> Backend: ...
    def takes(self, x: Array, output: Array) -> bool: ...
    def combine(self, sources: Sequence[Array], coefficients: Sequence[float]) -> Array: ...
    def bind(self, sources: Sequence[str], coefficients: Sequence[float], spent: Sequence[str] = ()) -> Combine: ...
    def scaled(self, factor: float) -> Callable[[Array], Array]: ...
    def update(
        self, instructions: Sequence[Instruction], samples: Collection[str] = (), foreign: Collection[str] = ()
    ) -> UpdateRegisters: ...
    def clip(self, made: Array, limit: float) -> Array: ...
    def zeros(self, like: Array) -> Array: ...
    def widen(self, x: Array) -> Array: ...
    def cast(self, x: Array, like: Array) -> Array: ...
    def timesteps(self, timesteps: Sequence[float], like: Array) -> list[Array]: ...
    def error_ratio(self, low: Array, high: Array, previous: Array, rtol: float, atol: float) -> float: ...
    def is_floating(self, x: Array) -> bool: ...


def one_by_one(backend: Backend, instructions: Sequence[Instruction]) -> UpdateRegisters:
    """An update that computes one combination after the other."""
    bound = [(made.register, _bind(backend, made)) for made in instructions]
    if len(bound) == 1:
        ((only, combination),) = bound

        def update_one(registers: dict[str, Array]) -> None:
            registers[only] = combination(registers)

        return update_one

    def update(registers: dict[str, Array]) -> None:
        for register, combine in bound:
            registers[register] = combine(registers)

    return update


def _bind(backend: Backend, made: Instruction) -> Combine:
    combination, limit = backend.bind(made.sources, made.coefficients, made.spent), made.limit
    if limit == inf:
        return combination
    return lambda registers: backend.clip(combination(registers), limit)


def backend_of(x: Array) -> Backend:
    """The backend for arrays like `x`.

    Raises:
        TypeError: `x` is no array of a library with the Python array API.
    """
    return _torch_backend() if is_torch(x) else _array_backend(namespace(x))


@lru_cache(maxsize=1)
def fused_backend() -> Backend:
    """The backend that compiles a kernel for each stage. Only for torch."""
    from diffusolve.backends.fused import FusedBackend

    return FusedBackend()


@lru_cache(maxsize=1)
def _torch_backend() -> Backend:
    import torch

    from diffusolve.backends.torch_eager import TorchBackend

    single, double, halves = torch.float32, torch.float64, (torch.bfloat16, torch.float16)
    faster = [TorchBackend(dtype) for dtype in (single, double)]
    with suppress(ImportError):  # installed without a compiler
        from diffusolve.backends.native import NativeBackend

        pairs = [(single, single), (double, double), *((sample, half) for half in halves for sample in (half, single))]
        faster = [*(NativeBackend(*pair) for pair in pairs), *faster]
    return TorchBackend(faster=faster)


@lru_cache(maxsize=8)
def _array_backend(namespace: Any) -> Backend:
    from diffusolve.backends.array_api import ArrayBackend

    return ArrayBackend(namespace)
