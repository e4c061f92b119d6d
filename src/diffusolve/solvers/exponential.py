"""Formulas that exponential integrators share: first-order steps, phi functions, the noise that an SDE keeps and adds.

In log-SNR (the papers' lambda) a step from `s` to `t` has the length ``h = t.log_snr - s.log_snr``. Integrals of data
predictions carry the factor exp(-h), those of noise predictions exp(h), and those of data predictions along the SDE of
strength `eta` exp(-(1 + eta) h).
"""

from __future__ import annotations

from math import exp, expm1, isfinite, sqrt

from diffusolve.noise import Grid, Point
from diffusolve.solvers.requests import Value

__all__ = ["between", "data_step", "ddim_step", "decay", "fresh_noise", "noise_prediction", "noise_step", "z_phi"]


def ddim_step(x: Value, data: Value, s: Point, t: Point) -> Value:
    """The step from `s` to `t` of constant data and noise (Song et al. 2021, DDIM, equation 12).

    It is :func:`data_step` in other words, and right where `t` is off the noise schedule: less noise than samples with
    that alpha have, as ancestral steps go down to.
    """
    result: Value = (t.sigma / s.sigma) * x + (t.alpha - s.alpha * t.sigma / s.sigma) * data
    return result


def data_step(x: Value, data: Value, s: Point, t: Point, eta: float = 0.0) -> Value:
    """The step from `s` to `t` of constant data, of the SDE of strength `eta` but for its noise.

    Lu et al. 2022, DPM-Solver++, section 4.3; DDIM without `eta`. It has a limit from alpha = 0 and to sigma = 0.
    """
    h = t.log_snr - s.log_snr
    result: Value = (t.sigma / s.sigma) * decay(h, eta) * x - t.alpha * expm1(-(1 + eta) * h) * data
    return result


def noise_step(x: Value, eps: Value, s: Point, t: Point, h: float) -> Value:
    """The step over `h` in log-SNR from `s` to `t` of a constant noise prediction `eps`.

    Lu et al. 2022, DPM-Solver, equation 3.7. It has a limit to sigma = 0, and none from alpha = 0.
    """
    ratio = t.alpha / s.alpha
    removed = t.sigma * expm1(h) if t.sigma > 0 else ratio * s.sigma
    result: Value = ratio * x - removed * eps
    return result


def between(grid: Grid, s: Point, t: Point, r: float) -> Point | None:
    """The point at part `r` of the way from `s` to `t` in log-SNR; None if that is infinite, or nearly so."""
    if r == 1 and isfinite(t.log_snr):  # also from alpha = 0, where the limit of infinitely long steps holds
        return t
    log_snr = s.log_snr + r * (t.log_snr - s.log_snr)
    if not isfinite(log_snr):
        return None
    middle = grid.at_log_snr(log_snr)
    return middle if isfinite(middle.log_snr) else None


def noise_prediction(x: Value, data: Value, s: Point) -> Value:
    """The noise in the sample `x` at `s` if `data` is the prediction of x0."""
    result: Value = (x - s.alpha * data) / s.sigma
    return result


def z_phi(k: int, z: float) -> float:
    """``z * phi_k(z)`` for k at least 1: the weight of the derivative of order k - 1, in units of the step.

    The phi functions are those of exponential integrators, ``phi_0(z) = exp(z)`` and ``phi_k+1(z) = (phi_k(z) - 1/k!) /
    z`` (Hochbruck & Ostermann 2005). In a step of length h, z is -h for data predictions and h for noise predictions.
    """
    value, factorial = expm1(z), 1
    for n in range(1, k):
        factorial *= n
        value = value / z - 1 / factorial
    return value


def decay(h: float, eta: float) -> float:
    """The part of the old noise that the SDE of strength `eta` keeps over `h`, in units of the ODE's: exp(-eta h)."""
    return exp(-eta * h) if eta > 0 else 1.0


def fresh_noise(h: float, eta: float) -> float:
    """The standard deviation of the noise that comes in its place, in units of that at the end of the step."""
    return sqrt(-expm1(-2 * eta * h)) if eta > 0 else 0.0
