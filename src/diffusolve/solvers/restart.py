"""Restart sampling: Heun's method that goes back to more noise, a few times, and integrates down from there."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from diffusolve.noise import Grid, Point
from diffusolve.solvers.requests import Noise, SolverRun, Value
from diffusolve.solvers.solver import solver
from diffusolve.solvers.two_stage import heun

__all__ = ["restart"]

MOST_STEPS = 100_000
"""The most steps of one entry of a list of restarts, over all its times."""

Restarts = tuple[tuple[float, tuple[int, int, float]], ...]
"""Pairs ``(min_sigma, (restart_steps, restart_times, max_sigma))``."""


@solver(
    paper="Xu et al. 2023, Restart Sampling for Improving Generative Processes, algorithm 1", integrates_dx_dsigma=True
)
def restart(
    grid: Grid,
    x: Value,
    *,
    restart_list: Restarts | None = None,
    s_noise: float = 1.0,
    includes_end: bool = False,
) -> SolverRun:
    """Heun's method that, on reaching `min_sigma`, adds noise up to `max_sigma` and integrates down from there.

    Each Heun step is a step of the plan, those after a restart too. The noise must be new each time: on a Brownian path
    that of one interval is always the same.

    Args:
        restart_list: pairs ``(min_sigma, (restart_steps, restart_times, max_sigma))``, as A1111's dictionary has them.
            Both sigmas stand for ``sigma / alpha``, whatever the noise schedule, and for the grid's point nearest to
            it. Between these are `restart_steps` sigmas, both ends included, spaced as Karras et al. have it, so that
            each of the `restart_times` restarts takes ``restart_steps - 1`` steps.

            When missing, A1111's own choice: for fewer than 20 steps no restarts. From 20 steps on ``(0.1, (10, 1,
            2))``, and from 36 on ``(0.1, (steps // 4 + 1, 2, 2))``, the other steps being spaced as Karras et al. have
            it between the grid's ends, so that there are as many steps in all as the grid has. None if the grid has no
            room for the way from 0.1 to 2.
        s_noise: multiplies the noise.
        includes_end: sigma = 0 is a point to restart from, as in A1111, and the nearest to 0.1 where the steps end with
            a long one to it: with Simple and SGM Uniform, say.
    """
    if restart_list is None:
        grid, restart_list = _automatic(grid, includes_end)
    points = [grid[0]]
    restarts = _restarts(grid, restart_list, includes_end)
    for index, point in enumerate(grid[1:], 1):
        points.append(point)
        for way_back in restarts.get(index, ()):
            x = yield from heun.function(_over(grid, points), x)
            top = way_back[0]
            ratio = top.alpha / point.alpha
            fresh = sqrt(top.sigma**2 - (ratio * point.sigma) ** 2)
            x = ratio * x + (s_noise * fresh) * (yield Noise(point, top))
            points = [*way_back]
    return (yield from heun.function(_over(grid, points), x))


def _automatic(grid: Grid, includes_end: bool) -> tuple[Grid, Restarts]:
    """A1111's choice for `grid`: the grid of the steps without restarts, and the restarts."""
    if grid.steps < 20:
        return grid, ()
    restart_steps, times = (9, 1) if grid.steps < 36 else (grid.steps // 4, 2)
    steps = grid.steps - restart_steps * times
    if grid[-1].sigma > 0:
        points = _karras(grid, grid[0], grid[-1], steps + 1)
    else:
        points = [*_karras(grid, grid[0], grid[-2], steps), grid[-1]]
    spaced = _over(grid, points)
    if _nearest(spaced, 2.0, includes_end) >= _nearest(spaced, 0.1, includes_end):  # no room for a way back
        return grid, ()
    return spaced, ((0.1, (restart_steps + 1, times, 2.0)),)


def _restarts(grid: Grid, restart_list: Restarts, includes_end: bool) -> dict[int, list[list[Point]]]:
    """Index of a point -> for each restart from there the points from more noise back to it, in order."""
    restarts: dict[int, list[list[Point]]] = {}
    if not isinstance(restart_list, tuple):
        raise TypeError(f"restart_list is {restart_list!r}: expected a tuple of pairs, such as ((0.1, (10, 1, 2.0)),).")
    for entry in restart_list:
        try:
            min_sigma, (restart_steps, times, max_sigma) = entry
        except (TypeError, ValueError):
            raise ValueError(
                f"restart_list has {entry!r}: expected pairs (min_sigma, (restart_steps, restart_times, max_sigma)), "
                "such as (0.1, (10, 1, 2.0))."
            ) from None
        if not 0.0 < min_sigma < max_sigma:
            raise ValueError(
                f"restart_list has min_sigma {min_sigma:g} and max_sigma {max_sigma:g}: expected "
                "0 < min_sigma < max_sigma (0.1 and 2, say)."
            )
        if restart_steps < 2 or times < 1 or restart_steps % 1 or times % 1:
            raise ValueError(
                f"restart_list has restart_steps {restart_steps} and restart_times {times}: expected whole numbers, at "
                "least 2 sigmas and 1 restart (10 and 1, say)."
            )
        if restart_steps * times > MOST_STEPS:
            raise ValueError(
                f"restart_list has {restart_steps:g} sigmas {times:g} times: expected at most {MOST_STEPS:,} steps."
            )
        bottom, top = (_nearest(grid, sigma, includes_end) for sigma in (min_sigma, max_sigma))
        if top >= bottom:
            raise ValueError(
                f"restart_list goes from sigma {min_sigma:g} back to {max_sigma:g}, but the same point of the grid is "
                f"the nearest to both, at {grid[top].sigma / grid[top].alpha:g}: take more steps, or a longer way."
            )
        restarts.setdefault(bottom, []).extend([_karras(grid, grid[top], grid[bottom], restart_steps)] * int(times))
    return restarts


def _nearest(grid: Grid, ratio: float, includes_end: bool) -> int:
    """The index of the point whose ``sigma / alpha`` is nearest to `ratio`, of those with signal and, mostly, noise."""
    inside = [i for i, point in enumerate(grid) if point.alpha > 0 and (point.sigma > 0 or includes_end)]
    if not inside:
        raise ValueError("the grid leads from pure noise to the data in one step, so there is nowhere to restart from.")
    return min(inside, key=lambda index: abs(grid[index].sigma / grid[index].alpha - ratio))


def _karras(grid: Grid, first: Point, last: Point, count: int) -> list[Point]:
    """`count` points from `first` to `last`, equal steps in ``sigma ** (1 / 7)`` (Karras et al. 2022, equation 5)."""
    high, low = first.sigma ** (1 / 7), last.sigma ** (1 / 7)
    between = [grid.at_sigma((high + step / (count - 1) * (low - high)) ** 7) for step in range(1, int(count) - 1)]
    return [first, *between, last]


def _over(grid: Grid, points: Sequence[Point]) -> Grid:
    return Grid(tuple(points), grid.noise_schedule, grid.scaling)
