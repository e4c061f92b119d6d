"""Two evaluations a step, second order: Heun and DPM-Solver-2."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

from diffusolve.noise import Grid
from diffusolve.solvers.requests import Evaluate, Keep, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["dpm_2", "heun"]


@solver(paper="Karras et al. 2022, Elucidating the Design Space, algorithm 1", straight=True)
def heun(grid: Grid, x: Value) -> SolverRun:
    """Heun's method: the average of the slopes at both ends. The last step to sigma = 0 is Euler's."""
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        h = t.sigma - s.sigma
        d = (x - data) / s.sigma
        if t.sigma > 0:
            half = yield Keep(x + h / 2 * d)
            end, data = yield Evaluate(x + h * d, t, stage=1)
            x = half + h / 2 * (end - data) / t.sigma
        else:
            x = x + h * d
    return x


@solver(paper="Lu et al. 2022, DPM-Solver, algorithm 1; Karras et al. 2022, algorithm 2", straight=True)
def dpm_2(grid: Grid, x: Value) -> SolverRun:
    """DPM-Solver-2: the slope at the geometric mean of both sigmas. The last step to sigma = 0 is Euler's."""
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        d = (x - data) / s.sigma
        if t.sigma > 0:
            middle = grid.at_sigma(sqrt(s.sigma * t.sigma))
            inner, data = yield Evaluate(x + (middle.sigma - s.sigma) * d, middle, stage=1)
            d = (inner - data) / middle.sigma
        x = x + (t.sigma - s.sigma) * d
    return x
