"""Noise that follows one Brownian path."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from math import sqrt
from typing import Any

from diffusolve.arrays import Array, is_torch

__all__ = ["BrownianPath"]

DIGITS = 6
"""Decimals that torchsde rounds a path's ends to; it warns of a question beyond them, and answers for the end."""

ROUNDING = 1e-3
"""The relative distance beyond its ends at which a path may be asked: published lists of sigmas are rounded."""


class BrownianPath:
    """Noise of intervals of sigma as the increments of one Brownian path, scaled to unit variance. Needs torchsde.

    Noise of overlapping intervals then belongs together, and a run with more steps is a finer version of one with
    fewer. The path is that of k-diffusion's ``BrownianTreeNoiseSampler`` with the same seed. The first call fixes the
    samples' shape, precision and device. Copies and pickles follow the same path.

    Args:
        sigma_min, sigma_max: the ends of the path.
        seed: one for the whole batch, or a list with one per sample; drawn from PyTorch's global generator when
            missing.

    Raises:
        ImportError: torchsde is not installed.
    """

    is_path = True
    """Noise of overlapping intervals is not independent: steps that draw some have no log-probability."""

    def __init__(self, sigma_min: float, sigma_max: float, seed: int | Sequence[int] | None = None) -> None:
        if find_spec("torchsde") is None:
            raise ImportError("a Brownian path needs the package torchsde: pip install 'diffusolve[sde]'.")
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)
        self.seed = seed
        self._trees: list[Any] = []

    def __call__(self, x: Array, sigma_from: float, sigma_to: float) -> Array:
        """Standard normal noise like `x`, for the interval between two different sigmas.

        Raises:
            TypeError: `x` is no PyTorch tensor.
            ValueError: as many seeds as there are not samples; a sigma that is not on the path.
        """
        trees = self._trees or self._plant(x)
        start, end = self._on_path(sigma_from), self._on_path(sigma_to)
        low, high = sorted((start, end))
        if low == high:
            raise ValueError(f"the interval from sigma {sigma_from:g} to {sigma_to:g} is empty: it has no noise.")
        least, most = round(self.sigma_min, DIGITS), round(self.sigma_max, DIGITS)
        increments = [tree(*(min(max(sigma, least), most) for sigma in (low, high))) for tree in trees]
        increment = increments[0]
        if isinstance(self.seed, Sequence):
            import torch

            increment = torch.stack(increments)
        return increment / (sqrt(high - low) if start < end else -sqrt(high - low))

    def _on_path(self, sigma: float) -> float:
        if not self.sigma_min * (1 - ROUNDING) <= sigma <= self.sigma_max * (1 + ROUNDING):
            raise ValueError(
                f"sigma {sigma:g} is outside this Brownian path, which goes from {self.sigma_min:g} to "
                f"{self.sigma_max:g}."
            )
        return min(max(sigma, self.sigma_min), self.sigma_max)

    def _plant(self, x: Any) -> list[Any]:
        import torch
        import torchsde  # type: ignore[import-untyped]

        if not is_torch(x):
            raise TypeError(f"a Brownian path is for PyTorch tensors, not {type(x).__name__}.")
        if self.seed is None:
            self.seed = int(torch.randint(0, 2**63 - 1, []).item())
        seeds, origin = [self.seed], torch.zeros_like(x)
        if isinstance(self.seed, Sequence):
            if len(self.seed) != len(x):
                raise ValueError(
                    f"{len(self.seed)} seeds for a batch of {len(x)} samples: give one per sample (a scheduler's are "
                    "its noise_sampler_seed)."
                )
            seeds, origin = list(self.seed), origin[0]
        self._trees = [torchsde.BrownianTree(self.sigma_min, origin, self.sigma_max, entropy=seed) for seed in seeds]
        return self._trees

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_trees": []}  # the seed determines the path
