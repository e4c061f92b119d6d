"""Sampling from consistency models."""

from __future__ import annotations

from itertools import pairwise

from diffusolve.noise import Grid
from diffusolve.solvers.requests import Evaluate, Noise, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["lcm"]


@solver(
    paper="Luo et al. 2023, Latent Consistency Models, algorithm 3; Song et al. 2023, Consistency Models, algorithm 1"
)
def lcm(grid: Grid, x: Value, *, s_noise: float = 1.0) -> SolverRun:
    """Multistep consistency sampling: jump to the data prediction, and add all the noise of the next point to it.

    It is for networks that predict where the probability-flow ODE ends (a consistency model, LCM-LoRA), not the mean of
    the data: with these each step begins with a sample of the right distribution. Nothing of the old noise is kept.

    Args:
        s_noise: multiplies the noise.
    """
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        x = t.alpha * data
        if t.sigma > 0:
            x = x + (s_noise * t.sigma) * (yield Noise(s, t))
    return x
