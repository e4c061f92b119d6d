"""DPM-Solver-fast: singlestep DPM-Solver for a given number of evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from diffusolve.noise import Grid, Point
from diffusolve.solvers.checks import check_eta
from diffusolve.solvers.dpm_adaptive import ancestral_end, dpm_12, dpm_23, renewed
from diffusolve.solvers.exponential import noise_prediction
from diffusolve.solvers.requests import Evaluate, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["dpm_fast"]


@solver(paper="Lu et al. 2022, DPM-Solver: DPM-Solver-fast, of algorithms 1 and 2")
def dpm_fast(grid: Grid, x: Value, *, eta: float = 0.0, s_noise: float = 1.0, skipped: int = 0) -> SolverRun:
    """DPM-Solver from the grid's first point to its last with as many evaluations as the grid has steps.

    DPM-Solver of order 3 as long as there are evaluations left, then of order 2 and 1, in equal steps in log-SNR. Where
    the grid's own steps fall does not matter, but for one from alpha = 0 or to sigma = 0: it is infinitely long, so it
    stays as it is and is of first order.

    Args:
        eta: how much noise is replaced in each step, as in Euler ancestral; no step goes below the last noise level.
        s_noise: multiplies that noise.
        skipped: how many evaluations of the run are left out at its beginning: `x` is then the sample that the next one
            is about. What is left of a step of order p after k evaluations is one of order p - k.
    """
    check_eta(eta)
    if not 0 <= skipped < grid.steps:
        raise ValueError(f"skipped is {skipped}: expected 0 to {grid.steps - 1}, of {grid.steps} evaluations.")
    for s, t, order in _steps(grid):
        if skipped >= order:
            skipped -= order
            continue
        down = t if t.sigma == 0 else ancestral_end(grid, s, t, _finite_end(grid), eta)
        at = grid.at_log_snr(s.log_snr + skipped / order * (down.log_snr - s.log_snr)) if skipped else s
        order, skipped = order - skipped, 0
        x, data = yield Evaluate(x, at)
        if order == 1:
            kept = down.sigma / at.sigma
            x = kept * x + (down.alpha - kept * at.alpha) * data
        else:
            eps = noise_prediction(x, data, at)
            _, x = yield from (dpm_12 if order == 2 else dpm_23)(grid, x, eps, at, down)
        x = yield from renewed(x, s, t, down, s_noise)
    return x


def _steps(grid: Grid) -> Iterator[tuple[Point, Point, int]]:
    """The steps, each with its order, which is also how many evaluations it takes."""
    first, last = grid[0], _finite_end(grid)
    steps = grid.steps - (last is not grid[-1])
    if first.alpha == 0:
        yield first, grid[1], 1
        first, steps = grid[1], steps - 1
    if steps > 0:
        orders = [3] * (steps // 3 - 1) + [2, 1] if steps % 3 == 0 else [3] * (steps // 3) + [steps % 3]
        h = (last.log_snr - first.log_snr) / len(orders)
        between = (grid.at_log_snr(first.log_snr + i * h) for i in range(1, len(orders)))
        for (s, t), order in zip(pairwise((first, *between, last)), orders, strict=True):
            yield s, t, order
    if last is not grid[-1]:
        yield last, grid[-1], 1


def _finite_end(grid: Grid) -> Point:
    """The last point before sigma = 0 that a step can lead to."""
    return grid[-2] if grid[-1].sigma == 0 and not (grid.steps == 1 and grid[0].alpha == 0) else grid[-1]
