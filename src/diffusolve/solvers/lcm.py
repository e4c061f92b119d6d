"""Sampling from consistency models."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

from diffusolve.noise import Grid
from diffusolve.solvers.requests import Evaluate, Noise, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["boundary_scalings", "lcm"]

SIGMA_DATA = 0.5


@solver(
    paper="Luo et al. 2023, Latent Consistency Models, algorithm 3; Song et al. 2023, Consistency Models, algorithm 1"
)
def lcm(
    grid: Grid, x: Value, *, s_noise: float = 1.0, timestep_scaling: float | None = None, noise_left: float = 0.0
) -> SolverRun:
    """Multistep consistency sampling: jump to the data prediction, and add all the noise of the next point to it.

    It is for networks that predict where the probability-flow ODE ends (a consistency model, LCM-LoRA), not the mean of
    the data: with these each step begins with a sample of the right distribution. Nothing of the old noise is kept.

    Args:
        s_noise: multiplies the noise.
        timestep_scaling: the prediction is put through the boundary condition of section 4.1, with timesteps multiplied
            by this. None: the network has that in itself.
        noise_left: sigma where the trajectories end that the network was trained on, epsilon in Song et al.: the data
            have that much noise already.
    """
    if not noise_left >= 0.0:
        raise ValueError(f"noise_left is {noise_left:g}: expected at least 0.")
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        if timestep_scaling is not None:
            c_skip, c_out = boundary_scalings(s.timestep, timestep_scaling)
            data = c_skip * x + c_out * data
        x = t.alpha * data
        if t.sigma > noise_left:
            x = x + (s_noise * sqrt(t.sigma**2 - noise_left**2)) * (yield Noise(s, t))
    return x


def boundary_scalings(timestep: float, timestep_scaling: float) -> tuple[float, float]:
    """(c_skip, c_out) of a latent consistency model, which are (1, 0) where there is no noise (section 4.1)."""
    time = timestep * timestep_scaling
    return SIGMA_DATA**2 / (time**2 + SIGMA_DATA**2), time / (time**2 + SIGMA_DATA**2) ** 0.5
