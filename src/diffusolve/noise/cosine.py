"""The cosine schedule in continuous time (v-diffusion, simple diffusion)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from diffusolve.noise.scaling import Scaling
from diffusolve.noise.schedule import Array, NoiseSchedule, check_range, check_sigma, check_train_timesteps

__all__ = ["Cosine"]


@dataclass(frozen=True)
class Cosine(NoiseSchedule):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2) for t in [0, 1] (Salimans & Ho 2022).

    At t = 1 nothing of the data is left.

    Args:
        log_snr_shift: added to log(alpha / sigma) everywhere; simple diffusion (Hoogeboom et al. 2023) trains images
            of side d with log(64 / d).
        num_train_timesteps: the number of points, equally spaced in t, that timestep spacings choose from.
    """

    scaling: ClassVar[Scaling] = Scaling.VARIANCE_PRESERVING

    log_snr_shift: float = 0.0
    num_train_timesteps: int = 1000

    def __post_init__(self) -> None:
        check_train_timesteps(self.num_train_timesteps)
        if not math.isfinite(self.log_snr_shift):
            raise ValueError(f"log_snr_shift is {self.log_snr_shift:g}: expected a finite number (0 shifts nothing).")

    def sigma(self, timestep: npt.ArrayLike) -> Array:
        t = np.asarray(timestep, np.float64)
        check_range("timestep", t, 0, 1)
        return np.where(t == 1.0, np.inf, np.tan(t * (math.pi / 2)) * math.exp(-self.log_snr_shift))

    def timestep(self, sigma: npt.ArrayLike) -> Array:
        s = np.asarray(sigma, np.float64)
        check_sigma(s, np.inf)
        return np.asarray(np.arctan(s * math.exp(self.log_snr_shift)) / (math.pi / 2))

    def sigma_at_index(self, index: npt.ArrayLike) -> Array:
        i = np.asarray(index, np.float64)
        check_range("training index", i, 0, self.num_train_timesteps - 1)
        return self.sigma((i + 1) / self.num_train_timesteps)
