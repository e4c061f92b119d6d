"""The cosine schedule in continuous time (v-diffusion, simple diffusion)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from diffusolve.noise.scaling import Scaling
from diffusolve.noise.schedule import Array, NoiseSchedule, check_parameters, check_range, check_sigma

__all__ = ["ClampedCosine", "Cosine"]


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
        check_parameters(self)
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


@dataclass(frozen=True)
class ClampedCosine(NoiseSchedule):
    """The cosine schedule of improved DDPM (Nichol & Dhariwal 2021, equation 17) for t in [0, 1], kept off its ends.

    Its alpha^2 is at least 1e-4 and at most 0.9999, so that signal is left at t = 1 and noise at t = 0 (Pernias et al.
    2023, Wuerstchen).

    Args:
        offset: the paper's s, which keeps the first variances from being too small.
        power: t is bent to ``t ** power``, and above 1 to ``1 - (1 - t) ** power``.
        num_train_timesteps: the number of points, equally spaced in t, that timestep spacings choose from.
    """

    scaling: ClassVar[Scaling] = Scaling.VARIANCE_PRESERVING
    least: ClassVar[float] = 1e-4
    most: ClassVar[float] = 0.9999

    offset: float = 0.008
    power: float = 1.0
    num_train_timesteps: int = 1000

    def __post_init__(self) -> None:
        check_parameters(self)
        if not 0.0 < self.power < math.inf or not 0.0 <= self.offset < math.inf:
            raise ValueError(
                f"power is {self.power:g} and offset {self.offset:g}: expected a positive power (1 bends nothing) and "
                "an offset of at least 0 (0.008)."
            )

    def sigma(self, timestep: npt.ArrayLike) -> Array:
        t = np.asarray(timestep, np.float64)
        check_range("timestep", t, 0, 1)
        t = 1 - (1 - t) ** self.power if self.power > 1 else t**self.power
        start, quarter = self.offset / (1 + self.offset), math.pi / 2
        signal = (np.cos((t + self.offset) / (1 + self.offset) * quarter) / math.cos(start * quarter)) ** 2
        signal = np.clip(signal, self.least, self.most)
        return np.asarray(np.sqrt((1 - signal) / signal))

    def timestep(self, sigma: npt.ArrayLike) -> Array:
        s = np.asarray(sigma, np.float64)
        check_sigma(s, np.inf)
        start, quarter = self.offset / (1 + self.offset), math.pi / 2
        alpha = np.minimum(np.cos(start * quarter) / np.sqrt(s**2 + 1), 1.0)
        t = np.clip(np.arccos(alpha) / quarter * (1 + self.offset) - self.offset, 0.0, 1.0)
        return np.asarray(1 - (1 - t) ** (1 / self.power) if self.power > 1 else t ** (1 / self.power))

    def sigma_at_index(self, index: npt.ArrayLike) -> Array:
        i = np.asarray(index, np.float64)
        check_range("training index", i, 0, self.num_train_timesteps - 1)
        return self.sigma((i + 1) / self.num_train_timesteps)
