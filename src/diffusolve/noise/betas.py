"""Tables of betas: the variance of the noise added at each of the training timesteps."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from diffusolve.errors import unknown_name

__all__ = ["BETA_SCHEDULES", "betas", "rescale_zero_terminal_snr"]

Array = npt.NDArray[np.float64]


def betas(beta_schedule: str, beta_start: float, beta_end: float, num_train_timesteps: int) -> Array:
    """The betas of a named schedule, shape (num_train_timesteps,), float64.

    Args:
        beta_schedule: one of :data:`BETA_SCHEDULES`.
        beta_start, beta_end: first and last beta; squaredcos_cap_v2, exp and laplace have no use for them.
        num_train_timesteps: how many.

    Raises:
        UnknownNameError: no such schedule.
        ValueError: a beta that is negative or not finite.
    """
    for name, value in {"beta_start": beta_start, "beta_end": beta_end}.items():
        if not 0.0 <= value < math.inf:
            raise ValueError(f"{name} is {value:g}: expected a beta, between 0 and 1.")
    if beta_schedule not in BETA_SCHEDULES:
        raise unknown_name("beta schedule", beta_schedule, BETA_SCHEDULES)
    return BETA_SCHEDULES[beta_schedule](beta_start, beta_end, num_train_timesteps)


def rescale_zero_terminal_snr(alphas_cumprod: Array) -> Array:
    """Shift and stretch ``sqrt(alphas_cumprod)`` so that the last one is exactly 0 and the first one stays.

    Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", algorithm 1.
    """
    root = np.sqrt(alphas_cumprod)
    return np.asarray(((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2)


def _linear(beta_start: float, beta_end: float, count: int) -> Array:
    """Equally spaced betas (Ho et al. 2020, section 4)."""
    return np.linspace(beta_start, beta_end, count)


def _scaled_linear(beta_start: float, beta_end: float, count: int) -> Array:
    """Betas whose square roots are equally spaced (Rombach et al. 2022, latent diffusion)."""
    return np.asarray(np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), count) ** 2)


def _sigmoid(beta_start: float, beta_end: float, count: int) -> Array:
    """Betas along a logistic curve over [-6, 6] (Xu et al. 2022, GeoDiff)."""
    return np.asarray(beta_start + (beta_end - beta_start) / (1.0 + np.exp(-np.linspace(-6.0, 6.0, count))))


def _from_signal(signal: Callable[[float], float]) -> Callable[[float, float, int], Array]:
    """Betas whose cumulative product follows ``signal(t)``, t from 0 to 1, each capped at 0.999."""

    def table(beta_start: float, beta_end: float, count: int) -> Array:
        signals = np.array([signal(i / count) for i in range(count + 1)])
        return np.asarray(np.minimum(1.0 - signals[1:] / signals[:-1], 0.999))

    return table


def _cosine_signal(t: float) -> float:
    """The signal power of the cosine schedule (Nichol & Dhariwal 2021, equation 17)."""
    return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2


def _exponential_signal(t: float) -> float:
    return math.exp(-12.0 * t)


def _laplace_signal(t: float) -> float:
    """The square root of the Laplace schedule's signal power, as in diffusers (Hang & Gu 2024, mu = 0, b = 0.5)."""
    log_snr = -0.5 * math.copysign(1.0, 0.5 - t) * math.log(1.0 - 2.0 * abs(0.5 - t) + 1e-6)
    return math.sqrt(1.0 / (1.0 + math.exp(-log_snr)))


BETA_SCHEDULES: dict[str, Callable[[float, float, int], Array]] = {
    "linear": _linear,
    "scaled_linear": _scaled_linear,
    "squaredcos_cap_v2": _from_signal(_cosine_signal),
    "sigmoid": _sigmoid,
    "exp": _from_signal(_exponential_signal),
    "laplace": _from_signal(_laplace_signal),
}
"""Name -> function of (beta_start, beta_end, num_train_timesteps)."""
