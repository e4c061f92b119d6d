"""Flow matching at a lower temperature: the score rescaled, with noise along the way."""

from __future__ import annotations

from itertools import pairwise
from math import cos, pi, sin, sqrt

from diffusolve.noise import Grid
from diffusolve.solvers.checks import check_choice
from diffusolve.solvers.requests import Evaluate, Noise, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["rescaled_flow"]

NOISES = ("1/t", "tan")


@solver(
    paper="Xu et al. 2025, Temporal Score Rescaling, with the noise of Geffner et al. 2025, Proteina",
    integrates_dx_dsigma=True,
)
def rescaled_flow(
    grid: Grid,
    x: Value,
    *,
    temperature: float = 1.0,
    width: float = 1.0,
    noise: str = "1/t",
    noisy_from: float = 1.0,
    noisy_to: float = 0.0,
) -> SolverRun:
    """Euler's method in time, ``t = 1 - sigma``, for a score multiplied so that samples come out less varied.

    For samples scaled so that alpha + sigma = 1 only.

    Args:
        temperature: the paper's k: the factor of the score at the data; 1 rescales nothing.
        width: the paper's sigma: how early it is reached.
        noise: how much noise a step adds at t: "1/t", or "tan", that of the angle.
        noisy_from, noisy_to: the times between which it is added; nowhere, unless given.
    """
    check_choice("noise", noise, NOISES)
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        factor = _factor(s.alpha, s.sigma, temperature, width)
        score = (s.alpha * data - x) / s.sigma**2
        length = t.alpha - s.alpha
        velocity = (x + s.sigma * factor * score) / s.alpha if s.alpha > 0 else (data - x) / s.sigma
        strength = _strength(s.alpha, s.sigma, noise) / factor**2 if noisy_from <= s.alpha <= noisy_to else 0.0
        x = x + length * (velocity + strength * factor * score)
        if strength > 0:
            x = x + sqrt(2 * strength * length) * (yield Noise(s, t))
    return x


def _factor(alpha: float, sigma: float, temperature: float, width: float) -> float:
    """The factor of the score, from 1 in noise to `temperature` at the data."""
    noise, signal = sigma**2, alpha**2 * width**2
    return (noise + signal) / (noise + signal / temperature)


def _strength(alpha: float, sigma: float, noise: str) -> float:
    if noise == "1/t":
        return 1.0 / (alpha + 0.01)
    return pi / 2 * sin(sigma * pi / 2) / (cos(sigma * pi / 2) + 0.01)
