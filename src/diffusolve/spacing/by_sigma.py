"""Spacings over sigma."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diffusolve.errors import SingularPointError, unknown_name
from diffusolve.noise import Grid, NoiseSchedule, Scaling
from diffusolve.spacing.base import Array, Spacing, checked_steps
from diffusolve.spacing.scipy_special import beta_quantile

__all__ = [
    "BetaSigmas",
    "BongTangent",
    "Exponential",
    "KLOptimal",
    "Karras",
    "LinearQuadratic",
    "Polyexponential",
    "Sigmas",
    "UniformLogSNR",
]


@dataclass(frozen=True, kw_only=True)
class RampSpacing(Spacing):
    """Sigmas from `sigma_max` to `sigma_min` along a curve.

    With ``final_sigma="zero"`` the last of the `steps` sigmas is sigma_min and the last step leads from there to 0.

    Args:
        sigma_min, sigma_max: the range, by the convention of the noise schedule; the schedule's own where missing.
        whole: round the timesteps, not the sigmas, to whole numbers.
    """

    runs_to_zero: ClassVar[bool] = False
    """True if with ``final_sigma="zero"`` the curve itself runs to 0, and none of the sigmas is sigma_min."""

    sigma_min: float | None = None
    sigma_max: float | None = None
    whole: bool = False

    @abstractmethod
    def ramp(self, position: Array, low: float, high: float, scaling: Scaling) -> Array:
        """The sigmas at `position`: 0 is where sampling starts (`high`), 1 where the ramp ends (`low`)."""

    def between(self, high: float, low: float, count: int, scaling: Scaling) -> Array:
        """The curve's `count` sigmas from `high` to `low`, whose last is `low` to the bit unless it is the only one."""
        sigmas = self.ramp(np.linspace(0.0, 1.0, count), low, high, scaling)
        if count > 1:
            sigmas[-1] = low  # not a rounding error away: a step from there to sigma_min is none
        return sigmas

    def grid(self, noise_schedule: NoiseSchedule, steps: int | None = None) -> Grid:
        steps = checked_steps(steps, noise_schedule.num_train_timesteps if noise_schedule.is_discrete else None)
        low = noise_schedule.sigma_min if self.sigma_min is None else self.sigma_min
        high = noise_schedule.sigma_max if self.sigma_max is None else self.sigma_max
        if not 0.0 < low < high:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, got sigma_min {low:g} and sigma_max {high:g}.")
        self._check_schedule(noise_schedule, high)
        ends_at_zero = self.final_sigma == "zero"
        jumps_to_zero = ends_at_zero and not self.runs_to_zero
        low = 0.0 if ends_at_zero and self.runs_to_zero else low
        count = steps if jumps_to_zero else steps + 1
        sigmas = self.between(high, low, count, noise_schedule.scaling)
        sigmas[0] = high  # likewise to the bit: it may be the schedule's end
        if jumps_to_zero:
            sigmas = np.append(sigmas, 0.0)
        timesteps = np.rint(noise_schedule.timestep(sigmas)) if self.whole else None
        return Grid.from_sigmas(noise_schedule, sigmas, timesteps)

    def _check_schedule(self, noise_schedule: NoiseSchedule, high: float) -> None:
        """Raise ValueError unless sigmas from `high` down can be divided on `noise_schedule`."""
        if not np.isfinite(high):
            raise SingularPointError(
                f"{type(self).__name__} divides the range of sigmas, which is infinite for {noise_schedule} "
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

    def ramp(self, position: Array, low: float, high: float, scaling: Scaling) -> Array:
        start, end = high ** (1 / self.rho), low ** (1 / self.rho)
        return np.asarray((start + position * (end - start)) ** self.rho)


@dataclass(frozen=True, kw_only=True)
class Exponential(RampSpacing):
    """Equal steps in log sigma."""

    def ramp(self, position: Array, low: float, high: float, scaling: Scaling) -> Array:
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

    def ramp(self, position: Array, low: float, high: float, scaling: Scaling) -> Array:
        return np.asarray(np.exp(np.log(low) + (1 - position) ** self.rho * (np.log(high) - np.log(low))))


@dataclass(frozen=True, kw_only=True)
class UniformLogSNR(RampSpacing):
    """Equal steps in ``log(alpha / sigma)`` (Lu et al. 2022, section 3.3; diffusers' "lu lambdas").

    The same as exponential but for flow matching, where alpha falls as sigma grows.
    """

    def ramp(self, position: Array, low: float, high: float, scaling: Scaling) -> Array:
        start, end = scaling.log_snr([high, low]).tolist()
        if not np.isfinite(start):
            raise SingularPointError(
                f"log(alpha / sigma) is infinite at sigma = {high:g}, so equal steps in it do not exist: give a "
                "smaller sigma_max, for example 0.999, or use another spacing."
            )
        return scaling.sigma_from_log_snr(start + position * (end - start))


@dataclass(frozen=True, kw_only=True)
class BetaSigmas(RampSpacing):
    """Quantiles of a Beta distribution over sigma itself, as diffusers' ``use_beta_sigmas`` has it. Needs SciPy.

    Args:
        alpha, beta: the distribution's parameters, both > 0.
    """

    alpha: float = 0.6
    beta: float = 0.6

    def ramp(self, position: Array, low: float, high: float, scaling: Scaling) -> Array:
        return low + beta_quantile(1.0 - position, self.alpha, self.beta) * (high - low)


@dataclass(frozen=True, kw_only=True)
class KLOptimal(RampSpacing):
    """Equal steps in ``arctan(sigma / sigma_data)`` (Sabour et al. 2024, Align Your Steps, theorem 3.1).

    Of all ways to place the steps of Euler's method (DDIM) on normally distributed data, this one ends nearest to the
    exact solution. A1111 ends at sigma_min, ComfyUI at zero.

    Args:
        sigma_data: standard deviation of the data, the theorem's c.
        of: what is divided. "sigma": the number that the noise schedule calls so, as ComfyUI has it. "ratio":
            sigma / alpha, which the theorem is about, from and to any value, infinity included. The two differ for
            flow matching only.
    """

    sigma_data: float = 1.0
    of: str = "sigma"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.sigma_data < np.inf:
            raise ValueError(
                f"sigma_data is {self.sigma_data:g}: expected the data's standard deviation, a positive number."
            )
        if self.of not in ("sigma", "ratio"):
            raise unknown_name("quantity to divide", self.of, ("sigma", "ratio"))

    def ramp(self, position: Array, low: float, high: float, scaling: Scaling) -> Array:
        ends = np.array([high, low])
        in_ratio = self.of == "ratio"
        start, end = np.arctan((np.exp(-scaling.log_snr(ends)) if in_ratio else ends) / self.sigma_data).tolist()
        divided = self.sigma_data * np.tan(start + position * (end - start))
        return scaling.sigma_from_log_snr(-np.log(divided)) if in_ratio else divided

    def _check_schedule(self, noise_schedule: NoiseSchedule, high: float) -> None:
        """The arctangent of infinity is as good as any."""


@dataclass(frozen=True, kw_only=True)
class LinearQuadratic(RampSpacing):
    """Short equal steps first, then steps that grow (Polyak et al. 2024, Movie Gen, section 3.4; Mochi).

    With L linear steps out of N, ``progress(i) = threshold * i / L``, to which after step L comes the parabola
    ``(1 - threshold * N / L) * ((i - L) / (N - L))**2``, so that the speed does not jump and the progress ends at 1.
    The sigmas are ``sigma_max * (1 - progress)``.

    For flow matching only, where sigma runs from 1 to 0. Of a sigma / alpha that runs from 80 to 0, say, the last step
    would have to take the last fifth, from 16 on, where all that matters is still to come; `everywhere` takes it.

    Args:
        threshold: the progress of the linear steps. They are the first L of L / threshold equal steps.
        linear_steps: how many steps are linear; half of them, rounded down, when missing.
        everywhere: divide other sigmas too, as ComfyUI does.

    Raises:
        ValueError: (:meth:`grid`) a threshold that leaves nothing for the other steps; not a flow-matching schedule.
    """

    runs_to_zero: ClassVar[bool] = True

    threshold: float = 0.025
    linear_steps: int | None = None
    everywhere: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.threshold < 1.0:
            raise ValueError(f"threshold is {self.threshold:g}: expected a part of the way, between 0 and 1 (0.025).")
        if self.linear_steps is not None and self.linear_steps < 1:
            raise ValueError(f"linear_steps is {self.linear_steps}: expected at least 1.")
        if self.sigma_min is not None and self.final_sigma == "zero":
            raise ValueError(
                f"sigma_min is {self.sigma_min:g}, but these sigmas run to 0: leave sigma_min out, or set "
                "final_sigma='sigma_min'."
            )

    def _check_schedule(self, noise_schedule: NoiseSchedule, high: float) -> None:
        if noise_schedule.scaling is not Scaling.FLOW and not self.everywhere:
            raise ValueError(
                f"linear-quadratic steps divide a sigma that runs from 1 to 0, as in flow matching, but the sigma of "
                f"{noise_schedule} runs from {high:g}, so that the last step would begin far from the data: use "
                "kl_optimal or karras, for example."
            )

    def ramp(self, position: Array, low: float, high: float, scaling: Scaling) -> Array:
        steps = len(position) - 1
        if steps == 1:  # there is nothing to divide
            return np.array([high, low])
        linear = steps // 2 if self.linear_steps is None else self.linear_steps
        if linear >= steps:
            raise ValueError(f"linear_steps is {linear}: of {steps} steps at most {steps - 1} can be linear.")
        rest = 1.0 - self.threshold * steps / linear
        if rest < 0.0:
            raise ValueError(
                f"threshold is {self.threshold:g}: {linear} of {steps} equal steps go {linear / steps:g} of the way, "
                "and the linear ones must not be longer: use a smaller threshold, or more linear_steps."
            )
        index = position * steps
        progress = self.threshold * index / linear + rest * (np.maximum(index - linear, 0.0) / (steps - linear)) ** 2
        return np.asarray(high + progress * (low - high))


@dataclass(frozen=True, kw_only=True)
class BongTangent(RampSpacing):
    """Two falling arctangents, from sigma_max to half of it and on to 0, that are steepest where they meet.

    It is RES4LYF's "bong_tangent", made for flow matching, as measured there: with N steps the curves meet after
    ``pivot * (N + 2)`` steps, rounded down, and the arctangents are those of ``40 * slope * (i - pivot) / (N + 2)``.

    Args:
        pivot: the part of the steps of the first curve, in (0, 1).
        slope: how steep the curves are, above 0.
    """

    runs_to_zero: ClassVar[bool] = True

    pivot: float = 0.6
    slope: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.pivot < 1.0:
            raise ValueError(f"pivot is {self.pivot:g}: expected a part of the steps, between 0 and 1 (0.6).")
        if not 0.0 < self.slope < np.inf:
            raise ValueError(f"slope is {self.slope:g}: expected a positive number (0.2).")
        if self.sigma_min is not None and self.final_sigma == "zero":
            raise ValueError(
                f"sigma_min is {self.sigma_min:g}, but these sigmas run to 0: leave sigma_min out, or set "
                "final_sigma='sigma_min'."
            )

    def ramp(self, position: Array, low: float, high: float, scaling: Scaling) -> Array:
        steps = len(position) + 1
        meet = int(steps * self.pivot)
        if not 2 <= meet <= steps - 2:  # one of the curves would have no step
            return np.asarray(high + position * (low - high))
        slope, middle = 40 * self.slope / steps, (high + low) / 2
        first = -np.arctan(slope * (np.arange(meet) - meet))
        second = -np.arctan(slope * np.arange(steps - meet))
        return np.append(_between(first, high, middle)[:-1], _between(second, middle, low))


def _between(values: Array, start: float, end: float) -> Array:
    """`values`, moved and stretched so that they lead from `start` to `end`."""
    return np.asarray(end + (values - values[-1]) * (start - end) / (values[0] - values[-1]))


@dataclass(frozen=True)
class Sigmas(Spacing):
    """Given sigmas, strictly decreasing, the end (usually 0) included.

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
