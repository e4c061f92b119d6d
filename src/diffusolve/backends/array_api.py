"""Executing a plan with any library that has the Python array API: NumPy, JAX, CuPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from diffusolve.arrays import Array
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
        total = self.widen(sources[0]) * coefficients[0]
        for source, coefficient in zip(sources[1:], coefficients[1:], strict=True):
            total = total + coefficient * self.widen(source)
        return total

    def bind(self, made: Sum) -> Combine:
        """:meth:`combine` of the sources of `made`."""
        if not made.sources:
            return lambda places: self.zeros(places[SAMPLE])
        return lambda places: self.combine([places[source] for source in made.sources], made.coefficients)

    def scaled(self, factor: float) -> Callable[[Array], Array]:
        """The function that multiplies by `factor`, in the precision of what it is given."""
        return lambda x: self.cast(self.widen(x) * factor, x)

    def update(self, stage: LoweredStage) -> Update:
        """All sums of `stage`, one after the other."""
        return one_by_one(self, stage.sums)

    def clip(self, made: Array, limit: float) -> Array:
        """`made` within plus and minus `limit`."""
        return self.xp.clip(made, -limit, limit)

    def zeros(self, like: Array) -> Array:
        """The sum of no terms."""
        return self.xp.zeros_like(like)

    def copied(self, x: Array) -> Array:
        """`x` in memory of its own."""
        return self.xp.asarray(x, copy=True)

    def detached(self, x: Array) -> Array:
        """`x` without gradients, which these arrays do not carry."""
        return x

    def widen(self, x: Array) -> Array:
        """`x` in the precision that combinations are computed in."""
        return self.xp.astype(x, self.xp.float32) if x.dtype.itemsize == 2 else x

    def cast(self, x: Array, like: Array) -> Array:
        """`x` in the precision of `like`."""
        return x if x.dtype == like.dtype else self.xp.astype(x, like.dtype)

    def timesteps(self, timesteps: Sequence[float], like: Array) -> list[Array]:
        """For each timestep an array of shape (batch,); of integers if all are whole Python ints."""
        dtype = None if all(isinstance(timestep, int) for timestep in timesteps) else self.widen(like).dtype
        return [self.xp.full((like.shape[0],), timestep, dtype=dtype) for timestep in timesteps]

    def error_ratio(self, low: Array, high: Array, previous: Array, rtol: float, atol: float) -> float:
        """See :class:`diffusolve.solvers.ErrorRatio`."""
        xp = self.xp
        scale = xp.maximum(rtol * xp.maximum(xp.abs(low), xp.abs(previous)), xp.asarray(atol, dtype=low.dtype))
        return float(xp.sqrt(xp.mean(((low - high) / scale) ** 2)))

    def is_floating(self, x: Array) -> bool:
        """True if `x` holds floating point numbers."""
        return bool(self.xp.isdtype(x.dtype, "real floating"))
