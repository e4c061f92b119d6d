"""A network of a variance preserving schedule as a flow-matching model."""

from __future__ import annotations

from math import hypot
from typing import Any

import numpy as np

from diffusolve.arrays import Array, array_like, to_numpy
from diffusolve.errors import SingularPointError
from diffusolve.noise import FlowMatching, Scaling
from diffusolve.prediction import Flow, Prediction

__all__ = ["AsFlow"]


class AsFlow:
    """A variance preserving denoiser on samples ``(1 - sigma) * x0 + sigma * noise``, whose output is ``noise - x0``.

    A sample of flow matching divided by the length of (1 - sigma, sigma) is one of the variance preserving schedule
    with the same signal-to-noise ratio, and what is known about x0 does not depend on how the sample is scaled. The
    change of variables is exact at the ratios that the network was trained on; outside it is told of the nearest one.

    Args:
        denoiser: knows its variance preserving noise schedule and its prediction type, as
            :class:`~diffusolve.denoisers.Denoiser` does.
        noise_schedule: the flow matching that the samples are of.

    Raises:
        ValueError: the denoiser's noise schedule is not variance preserving.
    """

    def __init__(self, denoiser: Any, noise_schedule: FlowMatching | None = None) -> None:
        if denoiser.noise_schedule.scaling is not Scaling.VARIANCE_PRESERVING:
            raise ValueError(
                f"the denoiser's noise schedule is {denoiser.noise_schedule!r}: expected a variance preserving one, "
                "for example diffusolve.SD15."
            )
        self.denoiser = denoiser
        self.noise_schedule = noise_schedule or FlowMatching()
        self.prediction: Prediction = Flow()

    def __call__(self, x: Array, timestep: Array, *args: Any) -> Array:
        """The velocity at samples `x`.

        Args:
            x: shape (batch, ...).
            timestep: shape (batch,), those of the flow matching, above 0.
            *args: passed to the denoiser, for example labels.

        Raises:
            SingularPointError: a timestep is 0, where a denoiser says nothing about the noise.
        """
        numbers = np.array([self._numbers(t) for t in to_numpy(timestep).tolist()]).T
        shape = (-1, *[1] * (len(x.shape) - 1))
        scale, a, b = (array_like(column.reshape(shape), x) for column in numbers[1:])
        return a * x + b * self.denoiser(scale * x, array_like(numbers[0], x), *args)

    def _numbers(self, timestep: float) -> tuple[float, float, float, float]:
        """The denoiser's timestep, what its input is multiplied by, and (a, b) of velocity = a * x + b * output."""
        sigma = float(self.noise_schedule.sigma(timestep))
        if sigma == 0.0:
            raise SingularPointError("at timestep 0 a sample says nothing about the noise, nor about the velocity.")
        alpha, length = 1.0 - sigma, hypot(1.0 - sigma, sigma)
        trained = self.denoiser.noise_schedule
        known = trained.sigma_max if alpha == 0.0 else min(sigma / alpha, trained.sigma_max)
        a, b = self.denoiser.prediction.data(alpha / length, sigma / length)
        scale = self.denoiser.prediction.input_scale(alpha / length, sigma / length) / length
        return float(trained.timestep(known)), scale, (1.0 - a / length) / sigma, -b / sigma
