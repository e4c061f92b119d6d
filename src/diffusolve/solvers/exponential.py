"""The parts that exponential integrators of the reverse SDE share: what a step forgets, and how it weighs a slope."""

from __future__ import annotations

from math import exp, expm1, sqrt

__all__ = ["decay", "fresh_noise", "slope_weight"]


def decay(h: float, eta: float) -> float:
    """How much of the old noise an SDE of strength `eta` keeps over `h` in log-SNR, against the ODE: exp(-eta h)."""
    return exp(-eta * h) if eta > 0 else 1.0


def fresh_noise(h: float, eta: float) -> float:
    """The standard deviation of the noise that comes in its place, in units of that at the end of the step."""
    return sqrt(-expm1(-2 * eta * h)) if eta > 0 else 0.0


def slope_weight(g: float) -> float:
    """The integral of ``theta g exp(-g (1 - theta))`` over theta from 0 to 1: g times the literature's phi_2(-g).

    What a change of the data over the whole step weighs, `g` being the step in log-SNR times 1 + eta.
    """
    return expm1(-g) / g + 1
