"""Executing a plan with PyTorch, one library call per term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from diffusolve.backends.backend import Combine

__all__ = ["TorchBackend"]

HALF = (torch.float16, torch.bfloat16)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in HALF else x


class TorchBackend:
    """Linear combinations of tensors, on whatever device they are.

    Half-precision tensors are combined in float32. Nothing that the caller owns is written to.
    """

    def combine(self, sources: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
        """The sum of ``coefficient * source`` as a new tensor, accumulated in place."""
        names = [str(i) for i in range(len(sources))]
        total: Tensor = self.bind(names, coefficients)(dict(zip(names, sources, strict=True)))
        return total

    def bind(self, sources: Sequence[str], coefficients: Sequence[float]) -> Combine:
        """The sum of ``coefficient * source`` over the registers `sources`, for the least work when it is computed."""
        if not sources:
            return lambda registers: self.zeros(next(iter(registers.values())))
        terms = sorted(zip(sources, coefficients, strict=True), key=lambda term: term[1] != 1.0)
        (first, factor), rest = terms[0], terms[1:]
        add, multiply = torch.add, torch.mul
        if not rest:
            return lambda registers: multiply(_wide(registers[first]), factor)
        (second, alpha), rest = rest[0], rest[1:]
        if factor == 1.0 and not rest:
            return lambda registers: add(_wide(registers[first]), registers[second], alpha=alpha)
        if not rest:
            return lambda registers: multiply(_wide(registers[first]), factor).add_(registers[second], alpha=alpha)

        def combination(registers: Mapping[str, Tensor]) -> Tensor:
            if factor == 1.0:
                total = add(_wide(registers[first]), registers[second], alpha=alpha)
            else:
                total = multiply(_wide(registers[first]), factor).add_(registers[second], alpha=alpha)
            for source, coefficient in rest:
                total.add_(registers[source], alpha=coefficient)
            return total

        return combination

    def zeros(self, like: Tensor) -> Tensor:
        """What an empty sum is."""
        return torch.zeros_like(like)

    def widen(self, x: Tensor) -> Tensor:
        """`x` in the precision that combinations are computed in."""
        return _wide(x)

    def cast(self, x: Tensor, like: Tensor) -> Tensor:
        """`x` in the precision of `like`."""
        return x if x.dtype == like.dtype else x.to(like.dtype)

    def timesteps(self, timesteps: Sequence[float], like: Tensor) -> list[Tensor]:
        """For each timestep a tensor of shape (batch,) on the device of `like`; int64 if all are whole Python ints."""
        whole = all(isinstance(timestep, int) for timestep in timesteps)
        dtype = torch.int64 if whole else torch.promote_types(like.dtype, torch.float32)
        table = torch.tensor(timesteps, dtype=dtype).to(like.device)
        return [row.expand(like.shape[0]) for row in table]

    def error_ratio(self, low: Tensor, high: Tensor, previous: Tensor, rtol: float, atol: float) -> float:
        """See :class:`diffusolve.solvers.ErrorRatio`."""
        low, high, previous = low.detach(), high.detach(), previous.detach()
        scale = torch.clamp(rtol * torch.maximum(low.abs(), previous.abs()), min=atol)
        return float(((low - high) / scale).square().mean().sqrt())

    def is_floating(self, x: Tensor) -> bool:
        """Whether `x` holds floating point numbers."""
        return x.is_floating_point()
