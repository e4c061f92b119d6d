"""The operations on arrays that running a plan takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Protocol

from diffusolve.arrays import Array
from diffusolve.backends.lowered import LoweredStage, Sum

__all__ = ["Array", "Backend", "Combine", "Update", "one_by_one"]

Combine = Callable[[list[Array]], Array]
"""A sum with everything but the places' arrays settled."""

Update = Callable[[list[Array]], None]
"""The sums of a stage with everything but the places' arrays settled: writes to their targets."""


class Backend(Protocol):
    """What executes the sums of stages, for arrays that it takes, and what else is done with such arrays."""

    casts: bool
    """Whether the next sample may come out of :meth:`update` in another precision than the sample."""

    def takes(self, x: Array, output: Array) -> bool: ...
    def combine(self, sources: Sequence[Array], coefficients: Sequence[float]) -> Array: ...
    def bind(self, made: Sum) -> Combine: ...
    def scaled(self, factor: float) -> Callable[[Array], Array]: ...
    def update(self, stage: LoweredStage) -> Update: ...
    def clip(self, made: Array, limit: float) -> Array: ...
    def zeros(self, like: Array) -> Array: ...
    def copied(self, x: Array) -> Array: ...
    def detached(self, x: Array) -> Array: ...
    def widen(self, x: Array) -> Array: ...
    def cast(self, x: Array, like: Array) -> Array: ...
    def timesteps(self, timesteps: Sequence[float], like: Array) -> list[Array]: ...
    def error_ratio(self, low: Array, high: Array, previous: Array, rtol: float, atol: float) -> float: ...
    def is_floating(self, x: Array) -> bool: ...


def one_by_one(backend: Backend, sums: Sequence[Sum]) -> Update:
    """An update that computes one sum after the other."""
    bound = [(made.target, _bind(backend, made)) for made in sums]
    if len(bound) == 1:
        ((only, combination),) = bound

        def update_one(places: list[Array]) -> None:
            places[only] = combination(places)

        return update_one

    def update(places: list[Array]) -> None:
        for target, combine in bound:
            places[target] = combine(places)

    return update


def _bind(backend: Backend, made: Sum) -> Combine:
    combination, limit = backend.bind(made), made.limit
    if limit == inf:
        return combination
    return lambda places: backend.clip(combination(places), limit)
