"""Gradient estimation: the slope, and on top of it some of its last change."""

from __future__ import annotations

from itertools import pairwise
from math import isfinite

from diffusolve.noise import Grid
from diffusolve.solvers.requests import Evaluate, Keep, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["gradient_estimation"]


@solver(
    paper="Permenter & Yuan 2023, Interpreting and Improving Diffusion Models from an Optimization Perspective, "
    "algorithm 2 and equation 12",
    straight=True,
)
def gradient_estimation(grid: Grid, x: Value, *, ge_gamma: float = 2.0) -> SolverRun:
    """Euler's method with the slope ``ge_gamma * d + (1 - ge_gamma) * (d of the step before)``.

    Args:
        ge_gamma: the paper's gamma; 2 there, and 1 is Euler's method. With 3/2 and equal steps it is Adams-Bashforth's
            method of second order.

    The first step and one to sigma = 0 are Euler's.
    """
    if not isfinite(ge_gamma):
        raise ValueError(f"ge_gamma is {ge_gamma:g}: expected a number (2 is usual, 1 is Euler's method).")
    older: Value | None = None
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        h = t.sigma - s.sigma
        d = yield Keep((x - data) / s.sigma)
        x = x + h * d
        if older is not None and t.sigma > 0:
            x = x + (h * (ge_gamma - 1)) * (d - older)
        older = d
    return x
