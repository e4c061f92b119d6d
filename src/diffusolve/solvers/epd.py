"""Parallel directions: several slopes inside a step, which the network can be asked for at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import fsum, sqrt

from diffusolve.noise import Grid
from diffusolve.solvers.checks import check_part, check_weight
from diffusolve.solvers.past import has_no_length
from diffusolve.solvers.requests import Evaluate, Keep, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["epd"]

GAUSS = 0.5 - sqrt(3) / 6, 0.5 + sqrt(3) / 6
"""The two points of Gauss's quadrature of an interval from 0 to 1, which have equal weights."""


@solver(
    paper="Zhu et al. 2025, Distilling Parallel Gradients for Fast ODE Solvers of Diffusion Models, EPD-Solver",
    integrates_dx_dsigma=True,
)
def epd(
    grid: Grid, x: Value, *, points: tuple[float, ...] = GAUSS, weights: tuple[float, ...] | None = None
) -> SolverRun:
    """The weighted mean of the slopes at several sigmas inside a step, each where the slope at its start leads.

    None of these evaluations needs another one's output: after the first of a step the network can be asked for all of
    them in one call (``diffusolve.sample(..., at_once=True)``). Of second order where the weighted mean of the points
    is 1/2, else of first.

    Args:
        points: the parts of the step, linear in sigma, where the slopes are taken; the paper learns them.
        weights: of the slopes, adding up to 1; equal ones when missing.

    The last step to sigma = 0 is Euler's.
    """
    weights = check_points(points, weights)
    for s, t in pairwise(grid):
        x, data = yield Evaluate(x, s)
        h = t.sigma - s.sigma
        x, d = (yield Keep(x)), (yield Keep((x - data) / s.sigma))
        if t.sigma == 0 or has_no_length(s, t):
            x = x + h * d
            continue
        slopes: list[Value] = []
        for stage, part in enumerate(points, start=1):
            point = grid.at_sigma(s.sigma + part * h, allow_untrained=True)
            inner, data = yield Evaluate(x + (part * h) * d, point, stage=stage)
            slopes.append((yield Keep((inner - data) / point.sigma)))
        for slope, weight in zip(slopes, weights, strict=True):
            x = x + (h * weight) * slope
    return x


def check_points(points: Sequence[float], weights: Sequence[float] | None) -> tuple[float, ...]:
    """The weights of the slopes at `points`. Raises ValueError if points and weights are none."""
    if not points:
        raise ValueError("points is (): expected at least one part of a step, for example (0.5,).")
    for part in points:
        check_part("points", part)
    if weights is None:
        return (1.0 / len(points),) * len(points)
    if len(weights) != len(points):
        raise ValueError(f"weights are {len(weights)} for {len(points)} points: expected one for each.")
    for weight in weights:
        check_weight("weights", weight)
    if abs(fsum(weights) - 1.0) > 1e-6:
        raise ValueError(f"weights add up to {fsum(weights):g}: expected 1, so that steps go all the way.")
    return tuple(weights)
