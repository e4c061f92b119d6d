"""Two evaluations a step, second order: Heun and DPM-Solver-2, also ancestral."""

from __future__ import annotations

from itertools import pairwise
from math import inf, sqrt

from diffusolve.noise import Grid
from diffusolve.solvers.ancestral import ancestral_noise
from diffusolve.solvers.checks import check_eta
from diffusolve.solvers.churn import churn
from diffusolve.solvers.requests import Evaluate, Keep, Noise, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["dpm_2", "heun"]


@solver(paper="Karras et al. 2022, Elucidating the Design Space, algorithms 1 and 2 (churn)", integrates_dx_dsigma=True)
def heun(
    grid: Grid, x: Value, *, s_churn: float = 0.0, s_tmin: float = 0.0, s_tmax: float = inf, s_noise: float = 1.0
) -> SolverRun:
    """Heun's method: the average of the slopes at both ends. The last step to sigma = 0 is Euler's.

    Args:
        s_churn: how much noise a step adds before it begins, as a part of sigma / alpha and times the number of steps
            (:func:`~diffusolve.solvers.churn.churn`); 0 adds none.
        s_tmin, s_tmax: the range of sigma / alpha where noise is added.
        s_noise: multiplies the noise.
    """
    for s, t in pairwise(grid):
        x, s = yield from churn(grid, x, s, s_churn, s_tmin, s_tmax, s_noise)
        x, data = yield Evaluate(x, s)
        h = t.sigma - s.sigma
        d = (x - data) / s.sigma
        if t.sigma > 0:
            d = yield Keep(d)
            end, data = yield Evaluate(x + h * d, t, stage=1)
            d = (d + (end - data) / t.sigma) / 2
        x = x + h * d
    return x


@solver(paper="Lu et al. 2022, DPM-Solver, algorithm 1; Karras et al. 2022, algorithm 2", integrates_dx_dsigma=True)
def dpm_2(
    grid: Grid,
    x: Value,
    *,
    eta: float = 0.0,
    s_noise: float = 1.0,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = inf,
    ancestral: str = "posterior",
) -> SolverRun:
    """DPM-Solver-2: the slope at the geometric mean of both sigmas; with ``eta=1`` DPM2 ancestral.

    An ancestral step goes on to less noise than asked for and fills up with fresh noise. A step that leaves nothing of
    the old noise, as the last one to sigma = 0 does, is Euler's.

    Args:
        eta: how much noise a step replaces; 0 is the ODE, and 1 as much as the posterior of the forward process holds.
        s_noise: multiplies the noise.
        s_churn: how much noise a step adds before it begins, as a part of sigma / alpha and times the number of steps
            (:func:`~diffusolve.solvers.churn.churn`); 0 adds none.
        s_tmin, s_tmax: the range of sigma / alpha where noise is added.
        ancestral: "posterior", or "rectified": on flow matching replace as much noise as ComfyUI does there
            (:func:`~diffusolve.solvers.ancestral.ancestral_noise`).
    """
    check_eta(eta)
    for s, t in pairwise(grid):
        x, s = yield from churn(grid, x, s, s_churn, s_tmin, s_tmax, s_noise)
        x, data = yield Evaluate(x, s)
        d = (x - data) / s.sigma
        up, down = ancestral_noise(s, t, eta, ancestral, grid.scaling)
        norm = grid.scaling.norm(down.alpha, down.sigma)  # a sample at `down` is norm times one of this grid at `end`
        end = down.sigma / norm
        if end > 0:
            middle = grid.at_sigma(sqrt(s.sigma * end), allow_untrained=True)  # after churn
            inner, data = yield Evaluate(x + (middle.sigma - s.sigma) * d, middle, stage=1)
            d = (inner - data) / middle.sigma
        x = norm * (x + (end - s.sigma) * d)
        if up > 0:
            x = x + (s_noise * up) * (yield Noise(s, t))
    return x
