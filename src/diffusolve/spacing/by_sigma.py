"""Spacings over the noise level."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from diffusolve.errors import SingularPointError
from diffusolve.noise import Grid, NoiseSchedule, Space
from diffusolve.spacing.base import Array, Spacing, checked_steps
from diffusolve.spacing.scipy_special import beta_quantile

__all__ = ["BetaSigmas", "Exponential", "Karras", "Polyexponential", "Sigmas", "UniformLogSNR"]


@dataclass(frozen=True, kw_only=True)
class RampSpacing(Spacing):
    """Noise levels from `sigma_max` to `sigma_min` along a curve.

    With ``final_sigma="zero"`` the last of the `steps` levels is sigma_min and the last step leads from there to 0.

    Args:
        sigma_min, sigma_max: the range, by the convention of the noise schedule; the schedule's own where missing.
        whole: round the timesteps, not the levels, to whole numbers.
    """

    sigma_min: float | None = None
    sigma_max: float | None = None
    whole: bool = False

    @abstractmethod
    def ramp(self, position: Array, low: float, high: float, space: Space) -> Array:
        """The noise levels at `position`: 0 is where sampling starts (`high`), 1 where the ramp ends (`low`)."""

    def grid(self, noise_schedule: NoiseSchedule, steps: int | None = None) -> Grid:
        steps = checked_steps(steps, noise_schedule.num_train_timesteps if noise_schedule.is_discrete else None)
        low = noise_schedule.sigma_min if self.sigma_min is None else self.sigma_min
        high = noise_schedule.sigma_max if self.sigma_max is None else self.sigma_max
        if not 0.0 < low < high:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, got sigma_min {low:g} and sigma_max {high:g}.")
        self._check_finite(noise_schedule, high)
        ends_at_zero = self.final_sigma == "zero"
        levels = steps if ends_at_zero else steps + 1
        sigmas = self.ramp(np.linspace(0.0, 1.0, levels), low, high, noise_schedule.space)
        sigmas[-1], sigmas[0] = low, high  # not a rounding error away: they may be the schedule's ends
        if ends_at_zero:
            sigmas = np.append(sigmas, 0.0)
        timesteps = np.rint(noise_schedule.timestep(sigmas)) if self.whole else None
        return Grid.from_sigmas(noise_schedule, sigmas, timesteps)

    def _check_finite(self, noise_schedule: NoiseSchedule, high: float) -> None:
        if not np.isfinite(high):
            raise SingularPointError(
                f"{type(self).__name__} divides the range of noise levels, which is infinite for {noise_schedule} "
                "(nothing of the data is left at its last timestep): give sigma_max, or use a spacing over "
                "timesteps such as trailing."
            )


@dataclass(frozen=True, kw_only=True)
class Karras(RampSpacing):
    """Equal steps in ``sigma ** (1 / rho)`` (Karras et al. 2022, equation 5).

    Args:
        rho: 7 in the paper; larger puts more steps at low noise.
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rho(self.rho)

    def ramp(self, position: Array, low: float, high: float, space: Space) -> Array:
        start, end = high ** (1 / self.rho), low ** (1 / self.rho)
        return np.asarray((start + position * (end - start)) ** self.rho)


@dataclass(frozen=True, kw_only=True)
class Exponential(RampSpacing):
    """Equal steps in log sigma."""

    def ramp(self, position: Array, low: float, high: float, space: Space) -> Array:
        return np.asarray(np.exp(np.log(high) + position * (np.log(low) - np.log(high))))


@dataclass(frozen=True, kw_only=True)
class Polyexponential(RampSpacing):
    """Log sigma falls as a power of the position (k-diffusion).

    Args:
        rho: the power; 1 is exponential, larger puts more steps at low noise.
    """

    rho: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rho(self.rho)

    def ramp(self, position: Array, low: float, high: float, space: Space) -> Array:
        return np.asarray(np.exp(np.log(low) + (1 - position) ** self.rho * (np.log(high) - np.log(low))))


@dataclass(frozen=True, kw_only=True)
class UniformLogSNR(RampSpacing):
    """Equal steps in ``log(alpha / sigma)`` (Lu et al. 2022, section 3.3; diffusers' "lu lambdas").

    The same as exponential but for flow matching, where alpha falls as sigma grows.
    """

    def ramp(self, position: Array, low: float, high: float, space: Space) -> Array:
        start, end = space.log_snr([high, low]).tolist()
        if not np.isfinite(start):
            raise SingularPointError(
                f"log(alpha / sigma) is infinite at sigma = {high:g}, so equal steps in it do not exist: give a "
                "smaller sigma_max, for example 0.999, or use another spacing."
            )
        return space.sigma_from_log_snr(start + position * (end - start))


@dataclass(frozen=True, kw_only=True)
class BetaSigmas(RampSpacing):
    """Quantiles of a Beta distribution over sigma itself, as diffusers' ``use_beta_sigmas`` has it. Needs SciPy.

    Args:
        alpha, beta: the distribution's parameters, both > 0.
    """

    alpha: float = 0.6
    beta: float = 0.6

    def ramp(self, position: Array, low: float, high: float, space: Space) -> Array:
        return low + beta_quantile(1.0 - position, self.alpha, self.beta) * (high - low)


@dataclass(frozen=True)
class Sigmas(Spacing):
    """Given noise levels, strictly decreasing, the end (usually 0) included.

    Args:
        sigmas: shape (steps + 1,), by the convention of the noise schedule.
    """

    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.final_sigma != "zero":
            raise ValueError("the last of the sigmas given is where the steps end: leave final_sigma out.")
        object.__setattr__(self, "sigmas", tuple(float(sigma) for sigma in self.sigmas))

    def grid(self, noise_schedule: NoiseSchedule, steps: int | None = None) -> Grid:
        if steps is not None and steps != len(self.sigmas) - 1:
            raise ValueError(
                f"steps is {steps}, but {len(self.sigmas)} sigmas make {len(self.sigmas) - 1} steps: leave steps out."
            )
        return Grid.from_sigmas(noise_schedule, self.sigmas)


def check_rho(rho: float) -> None:
    """Raise unless `rho` is a positive number."""
    if not 0.0 < rho < np.inf:
        raise ValueError(f"rho is {rho:g}: expected a positive number (Karras et al. use 7).")
