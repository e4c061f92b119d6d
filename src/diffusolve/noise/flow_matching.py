"""Flow matching, also called rectified flow (Stable Diffusion 3, Flux)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from diffusolve.noise.scaling import Scaling
from diffusolve.noise.schedule import Array, NoiseSchedule, check_parameters, check_range, check_sigma

__all__ = ["FlowMatching", "shifted"]


@dataclass(frozen=True)
class FlowMatching(NoiseSchedule):
    """Samples ``(1 - sigma) * x0 + sigma * noise`` (Liu et al. 2022, Lipman et al. 2022).

    The network is conditioned on ``num_train_timesteps * sigma``. At sigma = 1 nothing of the data is left.

    Args:
        shift: moves equally spaced sigmas towards noise, ``sigma -> shift * sigma / (1 + (shift - 1) * sigma)``
            (Esser et al. 2024, equation 23). It changes where timestep spacings fall, not what a timestep means.
        num_train_timesteps: the timestep at sigma = 1, and the number of sigmas that timestep spacings choose from.
    """

    scaling: ClassVar[Scaling] = Scaling.FLOW

    shift: float = 1.0
    num_train_timesteps: int = 1000

    def __post_init__(self) -> None:
        check_parameters(self)
        if not 0.0 < self.shift < np.inf:
            raise ValueError(f"shift is {self.shift:g}: expected a positive number (1 shifts nothing).")

    def sigma(self, timestep: npt.ArrayLike) -> Array:
        t = np.asarray(timestep, np.float64)
        check_range("timestep", t, 0, self.num_train_timesteps)
        return t / self.num_train_timesteps

    def timestep(self, sigma: npt.ArrayLike) -> Array:
        s = np.asarray(sigma, np.float64)
        check_sigma(s, 1.0)
        return np.minimum(s, 1.0) * self.num_train_timesteps

    def sigma_at_index(self, index: npt.ArrayLike) -> Array:
        i = np.asarray(index, np.float64)
        check_range("training index", i, 0, self.num_train_timesteps - 1)
        return shifted((i + 1) / self.num_train_timesteps, self.shift)


def shifted(sigma: npt.ArrayLike, shift: float) -> Array:
    """Flow matching's `sigma` moved towards noise by `shift` (Esser et al. 2024, equation 23); exactly 1 stays 1."""
    s = np.asarray(sigma, np.float64)
    return np.asarray(shift * s / (shift * s + (1 - s)))
