"""Variance exploding schedules (score SDE, EDM)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from diffusolve.errors import unknown_name
from diffusolve.noise.scaling import Scaling
from diffusolve.noise.schedule import Array, NoiseSchedule, check_parameters, check_range, check_sigma

__all__ = ["CONDITIONINGS", "VarianceExploding"]


CONDITIONINGS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "sigma": (lambda sigma: sigma, lambda timestep: timestep),
    "log_sigma": (np.log, np.exp),
    "edm": (lambda sigma: np.log(sigma) / 4.0, lambda timestep: np.exp(4.0 * timestep)),
}
"""Ways to tell a network of sigma: name -> (timestep from sigma, sigma from timestep)."""


@dataclass(frozen=True)
class VarianceExploding(NoiseSchedule):
    """Samples ``x0 + sigma * noise`` with sigma from `sigma_min` to `sigma_max` (Song et al. 2021, Karras et al. 2022).

    Args:
        sigma_min, sigma_max: the trained range, 0 < sigma_min < sigma_max.
        conditioning: what the network is told: "sigma" itself, "log_sigma", or "edm", a quarter of the logarithm.
        num_train_timesteps: the number of sigmas, equally spaced in log sigma, that timestep spacings choose from.
    """

    scaling: ClassVar[Scaling] = Scaling.VARIANCE_EXPLODING

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    conditioning: str = "sigma"
    num_train_timesteps: int = 1000

    def __post_init__(self) -> None:
        check_parameters(self)
        if not 0.0 < self.sigma_min < self.sigma_max < np.inf:
            raise ValueError(
                f"expected 0 < sigma_min < sigma_max < inf, got {self.sigma_min:g} and {self.sigma_max:g}."
            )
        if self.conditioning not in CONDITIONINGS:
            raise unknown_name("conditioning", self.conditioning, CONDITIONINGS)

    def sigma(self, timestep: npt.ArrayLike) -> Array:
        t = np.asarray(timestep, np.float64)
        from_sigma, to_sigma = CONDITIONINGS[self.conditioning]
        low, high = from_sigma(np.array([self.sigma_min, self.sigma_max])).tolist()
        inside = np.clip(t, low, high)
        t = np.where(np.isclose(t, inside, rtol=1e-6, atol=0.0), inside, t)  # an end that came back as float32
        check_range("timestep", t, low, high)
        return np.asarray(to_sigma(t))

    def timestep(self, sigma: npt.ArrayLike) -> Array:
        s = np.asarray(sigma, np.float64)
        check_sigma(s, self.sigma_max)
        return np.asarray(CONDITIONINGS[self.conditioning][0](np.maximum(s, self.sigma_min)))

    def sigma_at_index(self, index: npt.ArrayLike) -> Array:
        i = np.asarray(index, np.float64)
        check_range("training index", i, 0, self.num_train_timesteps - 1)
        ratio = i / (self.num_train_timesteps - 1)
        return np.asarray(self.sigma_min * (self.sigma_max / self.sigma_min) ** ratio)
