"""Executing a plan with any library that has the Python array API: NumPy, JAX, CuPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from diffusolve.arrays import Array, cast_like, widen
from diffusolve.backends.backend import Combine, Update, one_by_one
from diffusolve.backends.lowered import SAMPLE, LoweredStage, Sum

__all__ = ["ArrayBackend"]


class ArrayBackend:
    """Linear combinations in the namespace of the arrays; nothing is written in place, so immutable arrays work.

    Args:
        namespace: the array library, for example NumPy.
    """

    sees_gradients = False

    def __init__(self, namespace: Any) -> None:
        self.xp = namespace

    def takes(self, x: Array, output: Array) -> bool:
        """True: what is bound here runs on all arrays of the library."""
        return True

    def combine(self, sources: Sequence[Array], coefficients: Sequence[float]) -> Array:
        """The sum of ``coefficient * source`` as a new array."""
        total = widen(sources[0]) * coefficients[0]
        for source, coefficient in zip(sources[1:], coefficients[1:], strict=True):
            total = total + coefficient * widen(source)
        return total

    def bind(self, total: Sum) -> Combine:
        """:meth:`combine` of the sources of `total`."""
        if not total.sources:
            return lambda places: self.xp.zeros_like(places[SAMPLE])
        return lambda places: self.combine([places[source] for source in total.sources], total.coefficients)

    def scaled(self, factor: float) -> Callable[[Array], Array]:
        """The function that multiplies by `factor`, in the precision of what it is given."""
        return lambda x: cast_like(widen(x) * factor, x)

    def update(self, stage: LoweredStage) -> Update:
        """All sums of `stage`, one after the other."""
        return one_by_one(self, stage.sums)

    def clip(self, x: Array, limit: float) -> Array:
        """`x` within plus and minus `limit`."""
        return self.xp.clip(x, -limit, limit)
