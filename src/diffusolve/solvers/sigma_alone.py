"""Flow matching as programs treat it whose samplers know one number, sigma, and were written for alpha = 1."""

from __future__ import annotations

from collections.abc import Callable, Generator
from sys import float_info
from typing import Any

from diffusolve.noise import Grid, NoiseSchedule, Point, Scaling, VarianceExploding
from diffusolve.solvers.requests import Evaluate, Keep, Request, SolverRun, Value, intercepted

__all__ = ["after_percent", "in_sigma_alone", "sigma_at_percent"]

EVERY_SIGMA = VarianceExploding(float_info.min, float_info.max / 2, conditioning="sigma")


def in_sigma_alone(function: Callable[..., SolverRun], grid: Grid, x: Value, **options: Any) -> SolverRun:
    """Run a solver on flow matching's sigmas as if alpha were 1; the model is still asked at the true points.

    The differential equation is the same, ``dx/dsigma = (x - x0) / sigma``, so that a deterministic solver converges to
    the same samples. What it calls log-SNR is -log sigma, though, and what noise it adds is meant for alpha = 1.
    """
    if grid.scaling is not Scaling.FLOW:
        return (yield from function(grid, x, **options))
    known = {point.sigma: point for point in grid}

    def true(point: Point) -> Point:
        return known.get(point.sigma) or grid.at_sigma(point.sigma, allow_untrained=True)

    def at_true_point(request: Request) -> Generator[Request, Any, Any]:
        if isinstance(request, Evaluate) or (isinstance(request, Keep) and request.point is not None):
            assert request.point is not None
            request = request._replace(point=true(request.point))
        return (yield request)

    run = function(Grid.through(EVERY_SIGMA, grid.sigmas, grid.sigmas), x, **options)
    return (yield from intercepted(run, at_true_point))


def after_percent(grid: Grid, percent: float) -> Grid:
    """`grid` with a first point at alpha = 0 put at `percent` of the training time; samples are not changed for it."""
    if grid.scaling is not Scaling.FLOW or grid[0].alpha > 0:
        return grid
    first = grid.at_sigma(sigma_at_percent(grid.noise_schedule, percent))
    return Grid((first, *grid.points[1:]), grid.noise_schedule, grid.scaling)


def sigma_at_percent(noise_schedule: NoiseSchedule, percent: float) -> float:
    """The sigma at the part `percent` of the training time, counted from the noisiest."""
    count = noise_schedule.num_train_timesteps
    index = (1 - percent) * count - 1 if noise_schedule.scaling is Scaling.FLOW else (1 - percent) * (count - 1)
    return float(noise_schedule.sigma_at_index(max(index, 0.0)))
