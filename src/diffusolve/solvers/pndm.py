"""Pseudo numerical methods: Runge-Kutta and linear multistep formulas applied to noise predictions (PNDM, PLMS)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from math import hypot
from typing import Any, NamedTuple

from diffusolve.noise import Grid, Point
from diffusolve.solvers.checks import check_choice
from diffusolve.solvers.exponential import noise_prediction
from diffusolve.solvers.requests import Evaluate, Keep, SolverRun, Value
from diffusolve.solvers.solver import solver

__all__ = ["STARTS", "Call", "pndm", "pseudo_numerical"]

Table = tuple[tuple[float, ...], ...]

RUNGE_KUTTA: Table = ((1.0,), (0.0, 1.0), (0.0, 0.0, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
"""Weights of a step's slopes, the earliest first, after each of its four evaluations (equation 13 of the paper)."""

IMPROVED_EULER: Table = ((1.0,), (1 / 2, 1 / 2))
"""The same with two evaluations (equation 22)."""

ADAMS_BASHFORTH: Table = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Weights of the slopes at the beginnings of the last one to four steps, the newest first (equation 12 for four)."""

STARTS: dict[str, tuple[Table, int]] = {"runge_kutta": (RUNGE_KUTTA, 3), "improved_euler": (IMPROVED_EULER, 1)}
"""Name -> how the first steps are made, and how many of them."""

PREDICTIONS = ("epsilon", "v_prediction")


class Call(NamedTuple):
    """One evaluation: the network is asked at `asked`, then the sample that the step began with goes from `s` to `t`.

    `table` is that of a Runge-Kutta step, of which this is evaluation number `stage`; None in a multistep step.
    """

    table: Table | None
    stage: int
    asked: Point
    s: Point
    t: Point


@solver(paper="Liu et al. 2022, Pseudo Numerical Methods for Diffusion Models on Manifolds, algorithm 2")
def pndm(grid: Grid, x: Value, *, start: str = "runge_kutta") -> SolverRun:
    """F-PNDM: a linear multistep method of four steps on noise predictions, each step made with DDIM's formula.

    The weights are those of equal steps, whatever the grid, which makes the method one of second order.

    Args:
        start: of the first three steps, "runge_kutta" (PNDM) with four evaluations each; or of the first step,
            "improved_euler" (PLMS) with two, and lower orders thereafter.

    A step of the start that begins at alpha = 0 or ends at sigma = 0 has a single evaluation.
    """
    check_choice("start", start, STARTS)
    return pseudo_numerical(_calls(grid, *STARTS[start]), x, "epsilon")


def _calls(grid: Grid, table: Table, steps: int) -> Iterator[Call]:
    """The evaluations of a run over `grid` whose first `steps` steps follow `table`."""
    for number, (s, t) in enumerate(pairwise(grid)):
        if number >= steps or s.alpha == 0 or t.sigma == 0:
            yield Call(None, 0, s, s, t)
        elif table is IMPROVED_EULER:
            yield from (Call(table, 0, s, s, t), Call(table, 1, t, s, t))
        else:
            middle = grid.at_timestep((s.timestep + t.timestep) / 2)
            ends = (s, middle), (middle, middle), (middle, t), (t, t)
            yield from (Call(table, stage, asked, s, end) for stage, (asked, end) in enumerate(ends))


def pseudo_numerical(calls: Iterable[Call], x: Value, prediction: str) -> SolverRun:
    """The run of `calls` from `x`, averaging what the network says as `prediction`, "epsilon" or "v_prediction"."""
    check_choice("prediction", prediction, PREDICTIONS)
    begun = x
    history: list[Value] = []
    slopes: list[Value] = []
    for table, stage, asked, s, t in calls:
        x, data = yield Evaluate(x, asked, stage)
        slope = yield Keep(_slope(x, data, asked, prediction))
        if stage == 0:
            begun, slopes = x, []
            history = [slope, *islice(history, 3)]
        slopes.append(slope)
        mean = _sum(ADAMS_BASHFORTH[len(history) - 1], history) if table is None else _sum(table[stage], slopes)
        if prediction == "v_prediction":
            norm = hypot(s.alpha, s.sigma)
            data = s.alpha / norm**2 * begun - s.sigma / norm * mean
            noise = s.sigma / norm**2 * begun + s.alpha / norm * mean
        else:
            noise = mean
            if s.alpha > 0:  # otherwise the step is one from data and noise as the network predicts them
                data = (begun - s.sigma * noise) / s.alpha
        x = t.alpha * data + t.sigma * noise
    return x


def _slope(x: Value, data: Value, point: Point, prediction: str) -> Any:
    """The `prediction`, "epsilon" or "v_prediction", in which `data` is the prediction of x0 for `x` at `point`."""
    noise = noise_prediction(x, data, point)
    if prediction == "epsilon":
        return noise
    return (point.alpha * noise - point.sigma * data) / hypot(point.alpha, point.sigma)


def _sum(weights: tuple[float, ...], values: list[Value]) -> Any:
    first, *rest = zip(weights, values, strict=True)
    total = first[0] * first[1]
    for weight, value in rest:
        total = total + weight * value
    return total
