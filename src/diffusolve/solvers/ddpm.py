"""Ancestral sampling with the variances that denoising diffusion models were trained with."""

from __future__ import annotations

from itertools import pairwise
from math import hypot, sqrt

from diffusolve.noise import Grid, Point
from diffusolve.solvers.ancestral import split_noise
from diffusolve.solvers.checks import check_choice
from diffusolve.solvers.exponential import ddim_step
from diffusolve.solvers.requests import Evaluate, Noise, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["ddpm", "forward_noise"]

VARIANCES = ("posterior", "forward", "given")


@solver(paper="Ho et al. 2020, Denoising Diffusion Probabilistic Models, algorithm 2 and section 3.2")
def ddpm(grid: Grid, x: Value, *, variance: str = "posterior", noisy_end: bool = False) -> SolverRun:
    """DDPM: the mean of the forward process's posterior given the data prediction, and noise.

    Args:
        variance: of the noise. "posterior", that of the forward process given x0 (right if the data are a single
            point); "forward", that of the forward process's own step (right if the data are standard normal); "given":
            the noise comes with its standard deviation, as from a network that predicts it (Nichol & Dhariwal 2021).
        noisy_end: add noise in a step to sigma = 0 too, except from timestep 0. Diffusers does where the timesteps
            chosen do not lead down to 0.
    """
    check_choice("variance", variance, VARIANCES)
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        up, down = split_noise(s, t, 1.0)
        x = ddim_step(x, data, s, down)
        if t.sigma > 0 or (noisy_end and s.timestep > 0):
            deviation = {"posterior": up, "forward": forward_noise(s, t), "given": 1.0}[variance]
            x = x + deviation * (yield Noise(s, t))
    return x


def forward_noise(s: Point, t: Point) -> float:
    """Standard deviation of the noise that the forward process adds from `t` to `s`: sqrt(beta).

    For samples with alpha^2 + sigma^2 = 1 the paper's beta is ``1 - (s.alpha / t.alpha)^2``; elsewhere it is scaled as
    samples at `t` are.
    """
    norm = hypot(t.alpha, t.sigma)
    kept = s.alpha / hypot(s.alpha, s.sigma) * norm / t.alpha
    if kept > 1:
        raise ValueError(
            f"a step of ddpm leads from sigma / alpha = {s.sigma / s.alpha:g} up to {t.sigma / t.alpha:g}: expected "
            "less noise where it leads."
        )
    return norm * sqrt(1 - kept**2)
