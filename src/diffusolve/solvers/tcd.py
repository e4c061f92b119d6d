"""Strategic stochastic sampling from trajectory consistency models."""

from __future__ import annotations

from itertools import pairwise
from math import floor, log, sqrt

from diffusolve.noise import Grid, Point, Scaling
from diffusolve.solvers.exponential import ddim_step
from diffusolve.solvers.requests import Evaluate, Noise, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["landing", "tcd"]


@solver(paper="Zheng et al. 2024, Trajectory Consistency Distillation, algorithm 4 (gamma)")
def tcd(grid: Grid, x: Value, *, eta: float = 0.3) -> SolverRun:
    """Jump along the ODE past the next point, then add fresh noise to come back to it.

    It is for networks that were distilled to jump anywhere along the probability-flow ODE (TCD, TCD-LoRA, Hyper-SD).

    Args:
        eta: the paper's gamma, the share of the next timestep that the jump goes too far, 0 to 1; 1 is the sampling of
            a consistency model. The last step adds no noise.
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta is {eta:g}: expected a share of the next timestep, 0 to 1.")
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        u = t if t is grid[-1] else landing(grid, t, eta)
        x = ddim_step(x, data, s, u)
        if u is not t:
            kept = t.alpha / u.alpha
            x = kept * x + sqrt(t.sigma**2 - (kept * u.sigma) ** 2) * (yield Noise(u, t))
    return x


def landing(grid: Grid, t: Point, eta: float) -> Point:
    """The point at the part ``1 - eta`` of the time at `t`, rounded down where timesteps are whole; `t` if it is there.

    Time is the timestep, and sigma where noise is added to data that keep their scale. It is not below that of the
    least noise in training.
    """
    if eta == 0:
        return t
    schedule = grid.noise_schedule
    if schedule.scaling is Scaling.VARIANCE_EXPLODING and not schedule.is_discrete:
        sigma = max((1.0 - eta) * t.sigma / t.alpha, schedule.sigma_min)
        return t if sigma >= t.sigma / t.alpha else grid.at_log_snr(-log(sigma))
    timestep = max((1.0 - eta) * t.timestep, float(schedule.timestep(schedule.sigma_min)))
    if schedule.is_discrete:
        timestep = floor(timestep)
    return t if timestep >= t.timestep else grid.at_timestep(timestep)
