"""Noise along a Brownian path, under k-diffusion's names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from diffusolve.errors import check_options
from diffusolve.randomness import BrownianPath

__all__ = ["BatchedBrownianTree", "BrownianTreeNoiseSampler"]


class BatchedBrownianTree:
    """One Brownian path for a batch, or one per sample: called with two times, it gives the increment between them.

    Args:
        x: samples, whose shape (batch, ...), precision and device the increments have.
        t0, t1: the ends of the path. Where `t0` is the greater, the path goes backwards from there.
        seed: one for the batch, or a list with one per sample; drawn from PyTorch's global generator when missing.
        kwargs: only `w0`, samples that the increments are like, instead of `x`.

    Raises:
        ImportError: torchsde is not installed.
        ValueError: another argument; when it is called, as many seeds as there are not samples, or a time that is not
            on the path.
    """

    def __init__(self, x: Tensor, t0: Any, t1: Any, seed: int | Sequence[int] | None = None, **kwargs: Any) -> None:
        check_options("BatchedBrownianTree", kwargs, ["w0"])
        low, high = sorted((float(t0), float(t1)))
        self.like = kwargs.get("w0", x)
        self.sign = 1 if float(t0) == low else -1
        self.path = BrownianPath(low, high, int(torch.randint(0, 2**63 - 1, ())) if seed is None else seed)

    def __call__(self, t0: Any, t1: Any) -> Tensor:
        """The path's increment from `t0` to `t1`, with variance ``abs(t1 - t0)``."""
        start, end = float(t0), float(t1)
        increment: Tensor = self.sign * sqrt(abs(end - start)) * self.path(self.like, start, end)
        return increment


class BrownianTreeNoiseSampler:
    """Noise of intervals of sigma as the increments of one Brownian path, scaled to unit variance. Needs torchsde.

    Args:
        x: samples, whose shape (batch, ...), precision and device the noise has.
        sigma_min, sigma_max: the ends of the path.
        seed: one for the batch, or a list with one per sample; drawn from PyTorch's global generator when missing.
        transform: takes sigma to the path's time.
    """

    is_path = True

    def __init__(
        self,
        x: Tensor,
        sigma_min: Any,
        sigma_max: Any,
        seed: int | Sequence[int] | None = None,
        transform: Callable[[Any], Any] = lambda x: x,
    ) -> None:
        self.transform = transform
        self.tree = BatchedBrownianTree(x, self._time(sigma_min), self._time(sigma_max), seed)

    def __call__(self, sigma: Any, sigma_next: Any) -> Tensor:
        """Standard normal noise for the step from `sigma` to `sigma_next`."""
        noise: Tensor = self.tree.path(self.tree.like, self._time(sigma), self._time(sigma_next))
        return noise if self.tree.sign == 1 else -noise

    def _time(self, sigma: Any) -> float:
        return float(self.transform(torch.as_tensor(sigma)))
