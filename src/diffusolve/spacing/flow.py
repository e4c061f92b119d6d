"""Moving the steps of flow matching towards noise, and stretching them to where they are to end."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from diffusolve.errors import unknown_name
from diffusolve.noise import Grid, NoiseSchedule, Scaling, shifted
from diffusolve.spacing.base import Array, Spacing

__all__ = ["TIME_SHIFT_TYPES", "Shifted", "shift_from_mu"]

TIME_SHIFT_TYPES = ("exponential", "linear")
"""Readings of mu: the logarithm of the shift, or the shift itself."""


def shift_from_mu(mu: float, time_shift_type: str = "exponential") -> float:
    """The shift that `mu` stands for: pipelines compute it from the number of tokens, so that large images get more.

    Args:
        mu: the shift's logarithm ("exponential"), or the shift itself ("linear"), then above 0.
        time_shift_type: one of :data:`TIME_SHIFT_TYPES`.

    Raises:
        UnknownNameError: no such type.
        ValueError: a shift that is not a positive number.
    """
    if time_shift_type not in TIME_SHIFT_TYPES:
        raise unknown_name("time_shift_type", time_shift_type, TIME_SHIFT_TYPES)
    if not math.isfinite(mu):
        raise ValueError(f"mu is {mu:g}: expected a finite number (0.5 to 1.15 in Flux, by the size of the image).")
    if time_shift_type == "linear" and mu <= 0.0:
        raise ValueError(f'mu is {mu:g}: with time_shift_type="linear" it is the shift itself, above 0 (1 is none).')
    return math.exp(mu) if time_shift_type == "exponential" else float(mu)


@dataclass(frozen=True, kw_only=True)
class Shifted(Spacing):
    """Another spacing over flow matching's sigma, moved towards noise, and then stretched to a last sigma.

    Args:
        inner: where the steps fall before that.
        shift: ``sigma -> shift * sigma / (1 + (shift - 1) * sigma)`` (Esser et al. 2024, equation 23); 1 moves nothing.
        terminal: the last sigma above 0. The signal, 1 - sigma, is multiplied by what takes it there (LTX-Video); a
            single sigma is not stretched.
        final_sigma: as in `inner`, whose last sigma, if it is 0, is neither moved nor stretched.
    """

    inner: Spacing
    shift: float = 1.0
    terminal: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "final_sigma", self.inner.final_sigma)
        check_shift(self.shift)
        if self.terminal is not None and not 0.0 < self.terminal < 1.0:
            raise ValueError(f"terminal is {self.terminal:g}: expected a sigma between 0 and 1 (LTX-Video: 0.1).")

    def grid(self, noise_schedule: NoiseSchedule, steps: int | None = None) -> Grid:
        if noise_schedule.scaling is not Scaling.FLOW:
            raise ValueError(
                f"a shift moves the sigma of flow matching, from 0 to 1, not that of {noise_schedule}: use the inner "
                f"spacing itself, {self.inner}."
            )
        sigmas = self.inner.grid(noise_schedule, steps).sigmas
        ends_at_zero = bool(sigmas[-1] == 0.0)
        moved = stretched(shifted(sigmas[: len(sigmas) - ends_at_zero], self.shift), self.terminal)
        return Grid.from_sigmas(noise_schedule, np.append(moved, 0.0) if ends_at_zero else moved)


def stretched(sigmas: Array, terminal: float | None) -> Array:
    """Flow matching's `sigmas` with the signal, 1 - sigma, multiplied so that the last one is `terminal`, if given."""
    if terminal is None or len(sigmas) < 2:
        return sigmas
    signal = 1.0 - sigmas
    moved: Array = 1.0 - signal / (signal[-1] / (1.0 - terminal))
    return moved


def check_shift(shift: float) -> None:
    """Raise ValueError unless `shift` is a positive number."""
    if not 0.0 < shift < math.inf:
        raise ValueError(f"shift is {shift:g}: expected a positive number (1 shifts nothing).")
