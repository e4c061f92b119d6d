"""Executing a plan with PyTorch, one library call per term."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["TorchBackend"]

HALF = (torch.float16, torch.bfloat16)


class TorchBackend:
    """Linear combinations of tensors, on whatever device they are.

    Half-precision tensors are combined in float32. Nothing that the caller owns is written to.
    """

    def combine(self, sources: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
        """The sum of ``coefficient * source`` as a new tensor, accumulated in place."""
        total = sources[0]
        if total.dtype in HALF:
            total = total.float()
        c = coefficients[0]
        if len(sources) == 1:
            return total * c
        if c == 1.0:
            total = torch.add(total, sources[1], alpha=coefficients[1])
        else:
            total = torch.mul(total, c).add_(sources[1], alpha=coefficients[1])
        for i in range(2, len(sources)):
            total.add_(sources[i], alpha=coefficients[i])
        return total

    def zeros(self, like: Tensor) -> Tensor:
        """What an empty sum is."""
        return torch.zeros_like(like)

    def widen(self, x: Tensor) -> Tensor:
        """`x` in the precision that combinations are computed in."""
        return x.float() if x.dtype in HALF else x

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
