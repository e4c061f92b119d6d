"""Gradient estimation: Euler's method with the slope extrapolated from the last two."""

from __future__ import annotations

from itertools import pairwise
from math import isfinite

from diffusolve.noise import Grid
from diffusolve.solvers.cfg_pp import evaluate
from diffusolve.solvers.requests import Keep, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["gradient_estimation"]


@solver(
    paper="Permenter & Yuan 2023, Interpreting and Improving Diffusion Models from an Optimization Perspective, "
    "algorithm 2 and equation 12",
    integrates_dx_dsigma=True,
)
def gradient_estimation(grid: Grid, x: Value, *, ge_gamma: float = 2.0, cfg_pp: bool = False) -> SolverRun:
    """Euler's method with the slope ``ge_gamma * d + (1 - ge_gamma) * (d of the step before)``.

    Args:
        ge_gamma: the paper's gamma; 2 there, and 1 is Euler's method. With 3/2 and equal steps it is Adams-Bashforth's
            method of second order.
        cfg_pp: data with guidance, and slopes with the noise that the network sees without it
            (:mod:`diffusolve.solvers.cfg_pp`).

    The first step and one to sigma = 0 are Euler's.
    """
    if not isfinite(ge_gamma):
        raise ValueError(f"ge_gamma is {ge_gamma:g}: expected a number (the paper has 2, and 1 is Euler's method).")
    older: Value | None = None
    for s, t in pairwise(grid):
        x, data = yield from evaluate(x, s, cfg_pp)
        h = t.sigma - s.sigma
        d = yield Keep((x - data) / s.sigma)
        x = x + h * d
        if older is not None and t.sigma > 0:
            x = x + (h * (ge_gamma - 1)) * (d - older)
        older = d
    return x
