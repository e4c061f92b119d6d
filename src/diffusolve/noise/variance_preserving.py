"""Discrete variance preserving schedules (DDPM, Stable Diffusion)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from diffusolve.noise.betas import betas, rescale_zero_terminal_snr
from diffusolve.noise.scaling import Scaling
from diffusolve.noise.schedule import Array, NoiseSchedule, check_parameters, check_range, check_sigma

__all__ = ["SignalTable", "TabulatedSignal", "VariancePreserving"]


class SignalTable(NoiseSchedule):
    """A variance preserving schedule given by alpha^2 at each whole timestep.

    Between whole timesteps the logarithm of sigma / alpha is linear, as k-diffusion and diffusers have it.
    """

    scaling: ClassVar[Scaling] = Scaling.VARIANCE_PRESERVING
    is_discrete: ClassVar[bool] = True

    @property
    @abstractmethod
    def alphas_cumprod(self) -> Array:
        """alpha^2 at each training timestep, shape (num_train_timesteps,)."""

    @cached_property
    def training_sigmas(self) -> Array:
        """sigma / alpha at each training timestep, shape (num_train_timesteps,). Not to be changed."""
        with np.errstate(divide="ignore"):
            return np.sqrt((1.0 - self.alphas_cumprod) / self.alphas_cumprod)

    @cached_property
    def _log_sigmas(self) -> Array:
        with np.errstate(divide="ignore"):
            return np.log(self.training_sigmas)

    @cached_property
    def _finite(self) -> tuple[Array, Array]:
        """The logarithms of the sigmas, without infinite last ones, and their timesteps."""
        logs = self._log_sigmas[~np.isposinf(self._log_sigmas)]
        return logs, np.arange(len(logs), dtype=np.float64)

    def sigma(self, timestep: npt.ArrayLike) -> Array:
        t = np.asarray(timestep, np.float64)
        last = self.num_train_timesteps - 1
        check_range("timestep", t, 0, last)
        low = np.floor(t).astype(np.intp)
        weight, at = t - low, np.asarray(self.training_sigmas[low])
        if not np.any(weight):
            return at
        high = np.minimum(low + 1, last)
        # Where sigma is infinite at the upper end (zero terminal SNR) alpha is interpolated instead, and a whole
        # timestep takes its table entry as it is.
        with np.errstate(invalid="ignore"):
            between = np.exp((1 - weight) * self._log_sigmas[low] + weight * self._log_sigmas[high])
            if np.isinf(self.training_sigmas[-1]):
                alpha = (1 - weight) / np.hypot(1.0, at)
                vanishing = np.sqrt(np.maximum(1 - alpha**2, 0)) / np.where(alpha > 0, alpha, 1.0)
                between = np.where(np.isinf(self.training_sigmas[high]), vanishing, between)
        return np.where(weight == 0, at, between)

    def timestep(self, sigma: npt.ArrayLike) -> Array:
        s = np.asarray(sigma, np.float64)
        check_sigma(s, self.sigma_max)
        with np.errstate(divide="ignore"):
            log_s = np.log(s)
        finite, at = self._finite
        t = np.asarray(np.interp(log_s, finite, at))
        if len(finite) == self.num_train_timesteps:
            return t
        above = s > self.training_sigmas[len(finite) - 1]
        alpha_ratio = np.hypot(1.0, self.training_sigmas[len(finite) - 1]) / np.hypot(1.0, s)
        return np.where(above, len(finite) - alpha_ratio, t)

    def sigma_at_index(self, index: npt.ArrayLike) -> Array:
        return self.sigma(index)

    @property
    def sigma_min(self) -> float:
        return float(self.training_sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.training_sigmas[-1])


@dataclass(frozen=True)
class VariancePreserving(SignalTable):
    """Noise added step by step with variances beta (Ho et al. 2020): alpha^2 is the running product of 1 - beta.

    Args:
        beta_schedule: linear, scaled_linear, squaredcos_cap_v2, sigmoid, exp or laplace.
        beta_start, beta_end: the first and the last beta, in (0, 1).
        num_train_timesteps: how many timesteps the network was trained on.
        trained_betas: the betas themselves; the four arguments above then count for nothing.
        rescale_betas_zero_snr: rescale so that nothing of the data is left at the last timestep (Lin et al. 2023).

    Raises:
        ValueError: an unknown name, or betas that are not in (0, 1).
    """

    beta_schedule: str = "linear"
    beta_start: float = 0.0001
    beta_end: float = 0.02
    num_train_timesteps: int = 1000
    trained_betas: tuple[float, ...] | None = None
    rescale_betas_zero_snr: bool = False

    def __post_init__(self) -> None:
        if self.trained_betas is not None:
            object.__setattr__(self, "trained_betas", tuple(float(beta) for beta in self.trained_betas))
            object.__setattr__(self, "num_train_timesteps", len(self.trained_betas))
        check_parameters(self)
        table = self.betas
        inside = (table > 0.0) & (table < 1.0)
        if not np.all(inside):
            index = int(np.argmin(inside))
            raise ValueError(f"beta {table[index]:g} at timestep {index}: expected betas between 0 and 1.")

    @cached_property
    def betas(self) -> Array:
        """Variance of the noise added at each training timestep, shape (num_train_timesteps,), not rescaled."""
        if self.trained_betas is not None:
            return np.array(self.trained_betas, np.float64)
        return betas(self.beta_schedule, self.beta_start, self.beta_end, self.num_train_timesteps)

    @cached_property
    def alphas_cumprod(self) -> Array:
        product: Array = np.cumprod(1.0 - self.betas, dtype=np.float64)
        return rescale_zero_terminal_snr(product) if self.rescale_betas_zero_snr else product


@dataclass(frozen=True, repr=False)
class TabulatedSignal(SignalTable):
    """A variance preserving schedule from its table of alpha^2, as a framework computed it.

    Args:
        signal: alpha^2 at each training timestep, from 0 to 1, never rising but for the last one: neighbours may be
            equal where single precision does not tell them apart, and frameworks that put a small number in the place
            of a last 0 (2^-24 in diffusers) may thereby lift it above the one before.
    """

    signal: tuple[float, ...]

    def __repr__(self) -> str:
        return f"TabulatedSignal({len(self.signal)} timesteps, alpha^2 {self.signal[0]:g} to {self.signal[-1]:g})"

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_train_timesteps", len(self.signal))
        if not self.signal:
            raise ValueError("alpha^2 has no entries: expected one for each training timestep.")
        table = np.array(self.signal)
        inside = (table >= 0.0) & (table <= 1.0)
        if not np.all(inside):
            index = int(np.argmin(inside))
            raise ValueError(f"alpha^2 is {table[index]:g} at timestep {index}: expected numbers from 0 to 1.")
        falls = np.diff(table[:-1]) <= 0.0
        if not np.all(falls) or (len(table) > 1 and table[-1] >= table[0]):
            index = int(np.argmin(falls)) if not np.all(falls) else len(table) - 2
            raise ValueError(
                f"alpha^2 must fall from timestep to timestep; at {index} and {index + 1} it is {table[index]:g} and "
                f"{table[index + 1]:g}."
            )

    @cached_property
    def alphas_cumprod(self) -> Array:
        return np.array(self.signal, np.float64)

    def __deepcopy__(self, memo: dict[int, object]) -> TabulatedSignal:
        return self  # never changes; schedulers that are copied for each request share it

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.signal)
