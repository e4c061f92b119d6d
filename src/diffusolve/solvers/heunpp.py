"""Heun++: Heun's method with a third slope, at the end of the step that follows."""

from __future__ import annotations

from itertools import pairwise
from math import inf

from diffusolve.noise import Grid
from diffusolve.solvers.churn import churn
from diffusolve.solvers.requests import Evaluate, Keep, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["heunpp2"]


@solver(
    paper="none; Heun++ of Carzit's sd-webui-samplers-scheduler, 2023, which ComfyUI calls heunpp2",
    integrates_dx_dsigma=True,
)
def heunpp2(
    grid: Grid, x: Value, *, s_churn: float = 0.0, s_tmin: float = 0.0, s_tmax: float = inf, s_noise: float = 1.0
) -> SolverRun:
    """A weighted mean of the slopes at the beginning of the step, at its end, and at the end of the next step.

    The later slopes weigh ``sigma / (3 * first sigma)`` each, the first one the rest, so that the method is of first
    order and near to Euler's where there is little noise. The last step is Euler's, and the one before has two slopes,
    of which the second weighs ``sigma / (2 * first sigma)``.

    Args:
        s_churn: how much noise a step adds before it begins, as a part of sigma / alpha and times the number of steps
            (:func:`~diffusolve.solvers.churn.churn`); 0 adds none.
        s_tmin, s_tmax: the range of sigma / alpha where noise is added.
        s_noise: multiplies the noise.
    """
    first = grid[0].sigma
    for step, (s, t) in enumerate(pairwise(grid)):
        ahead = grid[step + 1 : step + 3] if step < grid.steps - 2 else grid[step + 1 : grid.steps]
        x, s = yield from churn(grid, x, s, s_churn, s_tmin, s_tmax, s_noise)
        x, data = yield Evaluate(x, s)
        start, h = x, t.sigma - s.sigma
        d = (x - data) / s.sigma
        mean = (1 - sum(point.sigma for point in ahead) / ((1 + len(ahead)) * first)) * d
        here = s
        for stage, point in enumerate(ahead, 1):
            mean = yield Keep(mean)
            x, data = yield Evaluate(x + (point.sigma - here.sigma) * d, point, stage)
            d, here = (x - data) / point.sigma, point
            mean = mean + point.sigma / ((1 + len(ahead)) * first) * d
        x = start + h * mean
    return x
