"""The operations that a plan is executed by, one implementation for each kind of arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Protocol

from diffusolve.arrays import Array, cast_like
from diffusolve.backends.lowered import NEXT, SAMPLE, LoweredStage, Sum

__all__ = ["Array", "Backend", "Combine", "Update", "one_by_one"]

Combine = Callable[[list[Array]], Array]
"""A sum with everything but the places' arrays settled."""

Update = Callable[[list[Array]], Array]
"""The sums of a stage with everything but the places' arrays settled: it fills the slots that they lead to, and returns
the next sample, in the precision of the sample."""


class Backend(Protocol):
    """The executor of the sums of stages, for the arrays that it takes."""

    sees_gradients: bool
    """True if tensors that require gradients are among those that it takes."""

    def takes(self, x: Array, output: Array) -> bool: ...
    def combine(self, sources: Sequence[Array], coefficients: Sequence[float]) -> Array: ...
    def bind(self, total: Sum) -> Combine: ...
    def scaled(self, factor: float) -> Callable[[Array], Array]: ...
    def update(self, stage: LoweredStage) -> Update: ...
    def clip(self, x: Array, limit: float) -> Array: ...


def one_by_one(backend: Backend, sums: Sequence[Sum], casts: bool = True) -> Update:
    """An update that computes one sum after the other; it `casts` the last one to the sample's precision."""
    *others, last = [(total.target, _bind(backend, total, casts)) for total in sums]
    following = last[1]
    if not others:
        return following

    def update(places: list[Array]) -> Array:
        for target, combine in others:
            places[target] = combine(places)
        return following(places)

    return update


def _bind(backend: Backend, total: Sum, casts: bool) -> Combine:
    """The sum `total`, clipped, and cast if it leads to the next sample."""
    combination, limit = backend.bind(total), total.limit
    if total.target == NEXT and casts:
        if limit == inf:
            return lambda places: cast_like(combination(places), places[SAMPLE])
        return lambda places: cast_like(backend.clip(combination(places), limit), places[SAMPLE])
    if limit == inf:
        return combination
    return lambda places: backend.clip(combination(places), limit)
