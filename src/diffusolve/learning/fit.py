"""Fitting by least squares: forward passes of the network only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from diffusolve.arrays import Array, to_numpy
from diffusolve.learning.curves import curves
from diffusolve.learning.kept import Fits
from diffusolve.learning.model import Model, root_mean_square
from diffusolve.learning.path import levels_of_path
from diffusolve.learning.table import NotALearnersPlanError, Table, in_rounds, plan_of, table_of, used
from diffusolve.learning.teacher import Pairs
from diffusolve.sampling import Sampler
from diffusolve.solvers import Solver, ipndm

__all__ = ["Fit", "fit_weights", "search"]

Numbers = npt.NDArray[np.float64]

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3)
"""The strengths of the ridge that the end of a search tries."""

USUAL_RIDGE = 1e-5

MOST_TRIES = 60
"""Changes of levels that a search tries at most."""


class Fit(NamedTuple):
    """A fitted table, and its root mean square distance on pairs that its weights have not seen."""

    table: Table
    error: float
    name: str


def search(
    model: Model,
    pairs: Pairs,
    validation: Pairs,
    steps: int,
    *,
    few: tuple[int, int] | None = None,
    starts: Sequence[tuple[str, Table]] = (),
    from_curves: bool = True,
    at_once: int = 1,
    seed: int = 0,
    tries: int = MOST_TRIES,
    time_left: Callable[[], float] = lambda: inf,
    on_fit: Callable[[Fit], object] | None = None,
    known: Fits | None = None,
) -> Fit:
    """The best of curves of several kinds, with weights fitted on each, its levels then moved.

    Args:
        model: the network.
        pairs: what the weights are fitted on.
        validation: what levels and the strength of the ridge are chosen by.
        steps: evaluations of the table.
        few: so many of both do until the best levels are found; all when missing.
        starts: names and tables to try besides the curves and the levels of the teacher's path.
        from_curves: False for the levels of the path and of `starts` alone, which are not moved.
        at_once: evaluations of a round, none of which waits for another one's slope.
        seed: of the changes that are tried.
        tries: how many changes.
        time_left: seconds that are left for it.
        on_fit: called after each fit with the best so far.
        known: fits that were made before, and where they are kept.
    """
    known = known or Fits(None)
    best: Fit | None = None
    count, others = few or (pairs.count, validation.count)
    judges = pairs.first(count), validation.first(others)

    def fitted(start: Table, ridge: float) -> tuple[Table, float]:
        some, held_out = judges
        table, made = fit_weights(model, some.and_(held_out), start, ridge, some.count, at_once)
        return table, root_mean_square(made[some.count :] - held_out.final)

    def tried(start: Table, ridge: float, name: str) -> bool:
        nonlocal best
        follows_from = [start.sigmas.tolist(), start.weights.tolist(), ridge, *(some.count for some in judges)]
        table, error = known.or_made(lambda: fitted(start, ridge), start, follows_from)
        is_better = bool(np.isfinite(error)) and (best is None or error < best.error)
        if is_better:
            best = Fit(table, error, name)
            towards[0] = start
        if on_fit is not None and best is not None:
            on_fit(best)
        return is_better

    towards: list[Table] = []
    of_curves = _on_curves(model, steps, ipndm) if from_curves else ()
    for name, table in [*starts, *_on_path(pairs, steps), *of_curves]:
        start = in_rounds(table, at_once)
        if not towards:
            towards.append(start)
        if time_left() <= 0 and best is not None:
            break
        tried(start, USUAL_RIDGE, name)
    if best is None:
        raise ValueError("no curve of levels gives finite samples: does the network return finite numbers?")
    random, size = np.random.default_rng(seed), 0.25
    for _ in range(tries if steps > 1 and from_curves else 0):
        if time_left() <= 0:
            break
        moved = _moved(towards[0], size * random.standard_normal(steps - 1))
        size = (
            min(0.5, size * 1.4)
            if tried(moved, USUAL_RIDGE, f"{best.name.removesuffix(', moved')}, moved")
            else size * 0.93
        )
        size = 0.25 if size < 0.03 else size
    found, judges, best = best, (pairs, validation), None
    for ridge in (USUAL_RIDGE, *(ridge for ridge in RIDGES if ridge != USUAL_RIDGE)):
        if best is None or time_left() > 0:
            tried(towards[0], ridge, found.name)
    return best or found


def _on_curves(model: Model, steps: int, solver: Solver) -> Iterator[tuple[str, Table]]:
    """Name and hand-made table of each curve."""
    for name, spacing in curves(model):
        try:
            plan = Sampler(solver, spacing).plan(model.noise_schedule, model.prediction, steps)
            yield name, table_of(plan, model.noise_schedule, model.scaling)
        except (NotALearnersPlanError, ValueError, ImportError):  # not on this kind of schedule
            continue


def _on_path(pairs: Pairs, steps: int) -> Iterator[tuple[str, Table]]:
    """Euler's method on the levels of the teacher's path, if it has as many."""
    if steps <= len(pairs.sigmas):
        yield "teacher's path", Table(levels_of_path(pairs, steps), np.zeros(steps), np.eye(steps))


def _moved(table: Table, by: Numbers) -> Table:
    """`table` with the ratio of neighbouring levels changed, on the scale where they are between 0 and 1."""
    ratios = table.sigmas[1:-1] / table.sigmas[:-2]
    ratios = 1.0 / (1.0 + (1.0 / ratios - 1.0) * np.exp(-by))
    inner = table.sigmas[0] * np.cumprod(ratios)
    return Table(np.concatenate([table.sigmas[:1], inner, table.sigmas[-1:]]), table.shifts, table.weights)


def fit_weights(
    model: Model, pairs: Pairs, start: Table, ridge: float = 1e-3, fitted: int | None = None, at_once: int = 1
) -> tuple[Table, Array]:
    """Weights by least squares, stage by stage, on the learner's own states against the teacher's at the next level.

    Args:
        model: the network.
        pairs: noises and the teacher's path.
        start: its levels stay; its weights are what the ridge draws to.
        ridge: how strongly, as a part of the mean square of the slopes.
        fitted: only so many of the pairs, the first, count for the weights; all when missing.
        at_once: evaluations of a round, none of which waits for another one's slope.

    Returns:
        table: with the weights.
        made: the learner's samples at the end, for all pairs.
    """
    plan = plan_of(start, model.noise_schedule, model.scaling, model.prediction)
    fitted = pairs.count if fitted is None else fitted
    x, slopes = pairs.begun, []
    weights, allowed = np.zeros_like(start.weights), used(start.steps, at_once).sum(1)
    columns: list[Numbers] = []
    for i, stage in enumerate(plan.stages):
        slopes.append(model.slopes(x, stage, pairs.rows))
        columns.append(_flat(slopes[-1][:fitted]))
        step = float(start.sigmas[i + 1] - start.sigmas[i])
        wanted = _flat((pairs.at(float(start.sigmas[i + 1])) - x)[:fitted]) / step
        waited = slice(allowed[i])  # these slopes are the first, in order
        weights[i, waited] = _ridge(columns[waited], wanted, start.weights[i, waited], ridge)
        for weight, slope in zip(weights[i], slopes, strict=False):
            x = x + step * float(weight) * slope
    return Table(start.sigmas, start.shifts, weights), x


def _flat(x: Array) -> Numbers:
    return to_numpy(x).astype(np.float64).ravel()


def _ridge(columns: list[Numbers], wanted: Numbers, towards: Numbers, ridge: float) -> Numbers:
    """The weights of `columns` whose sum is nearest to `wanted`, drawn `towards` others."""
    matrix = np.array(columns)
    gram = matrix @ matrix.T
    drawn = ridge * np.mean(np.diag(gram)) * np.eye(len(columns))
    rest = matrix @ (wanted - towards @ matrix)
    if not (np.isfinite(gram).all() and np.isfinite(rest).all()):  # which the error of the samples says
        return towards
    return np.asarray(towards + np.linalg.lstsq(gram + drawn, rest, rcond=None)[0])
