"""Pairs of noise and exact samples, with the whole path between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from diffusolve.arrays import Array, concatenate, no_gradients, widen
from diffusolve.backends import Run
from diffusolve.learning.model import Model, Rows, root_mean_square, slope
from diffusolve.learning.table import place
from diffusolve.noise import Grid, Point
from diffusolve.plan import plan_for
from diffusolve.randomness import draw_normal
from diffusolve.solvers import dpmpp_multistep

if TYPE_CHECKING:
    from diffusolve.learning.teachers import Teachers

__all__ = ["Pairs", "TeacherError", "follow", "start_point", "steps_needed", "teacher_grid", "walk"]

NOISIEST = -6.0
"""The log-SNR from which a teacher's steps are equal, where sampling starts at pure noise: the first leads there."""


class TeacherError(ValueError):
    """A teacher that disagrees with a finer one."""


@dataclass(frozen=True)
class Pairs:
    """Noises, the samples that they become by the exact solution of the ODE, and the path between.

    Attributes:
        begun: samples at the first level, shape (count, ...).
        rows: their conditions.
        sigmas: levels of the path, falling, shape (levels,).
        states: samples at these levels.
        slopes: dx/dsigma there.
        final: the data prediction at the last level, where samplers that end at sigma = 0 end.
    """

    begun: Array
    rows: Rows
    sigmas: npt.NDArray[np.float64]
    states: Sequence[Array]
    slopes: Sequence[Array]
    final: Array

    @property
    def count(self) -> int:
        """The number of pairs."""
        return int(self.begun.shape[0])

    def at(self, sigma: float) -> Array:
        """The exact samples at level `sigma`: cubic between the path's levels, and `final` at 0."""
        if sigma < self.sigmas[-1]:
            return self.final
        i = int(np.searchsorted(-self.sigmas, -sigma, side="right")) - 1
        i = min(max(i, 0), len(self.sigmas) - 2)
        high, low = self.sigmas[i], self.sigmas[i + 1]
        h, t = float(low - high), float((sigma - high) / (low - high))
        start, end = (1 + 2 * t) * (1 - t) ** 2, t * t * (3 - 2 * t)
        return (
            start * self.states[i]
            + end * self.states[i + 1]
            + (h * t * (1 - t) ** 2) * self.slopes[i]
            + (h * t * t * (t - 1)) * self.slopes[i + 1]
        )

    def first(self, count: int) -> Pairs:
        """The first `count` pairs."""
        return Pairs(
            self.begun[:count],
            tuple(row[:count] for row in self.rows),
            self.sigmas,
            [state[:count] for state in self.states],
            [state[:count] for state in self.slopes],
            self.final[:count],
        )

    def and_(self, other: Pairs) -> Pairs:
        """A join: these pairs and then those of `other`, which has the same levels."""
        return Pairs(
            concatenate([self.begun, other.begun]),
            tuple(concatenate([one, two]) for one, two in zip(self.rows, other.rows, strict=True)),
            self.sigmas,
            [concatenate([one, two]) for one, two in zip(self.states, other.states, strict=True)],
            [concatenate([one, two]) for one, two in zip(self.slopes, other.slopes, strict=True)],
            concatenate([self.final, other.final]),
        )


def teacher_grid(model: Model, steps: int) -> Grid:
    """Equal steps of log-SNR from the noisiest level to the least that the network was trained on."""
    schedule, scaling = model.noise_schedule, model.scaling
    own = schedule.scaling
    high, low = (float(own.log_snr(sigma)) for sigma in (schedule.sigma_max, schedule.sigma_min))
    levels = np.linspace(high, low, steps + 1) if np.isfinite(high) else np.linspace(NOISIEST, low, steps)
    sigmas = scaling.sigma_from_log_snr(levels)
    if not np.isfinite(high):
        sigmas = np.append(1.0, sigmas)
    return Grid(tuple(place(schedule, scaling, float(sigma)) for sigma in sigmas), schedule, scaling)


def start_point(model: Model) -> Point:
    """The noisiest place that the network was trained on, where sampling starts."""
    schedule = model.noise_schedule
    noisiest = float(schedule.scaling.log_snr(schedule.sigma_max))
    return place(schedule, model.scaling, float(model.scaling.sigma_from_log_snr(noisiest)))


def begun(model: Model, seeds: Sequence[int]) -> Array:
    """The samples of `seeds` at the noisiest level, shape (len(seeds), ...)."""
    like = widen(model.like[:1])
    sigma = start_point(model).sigma
    return concatenate([sigma * draw_normal([seed], like) for seed in seeds])


def walk(
    model: Model, steps: int, x: Array, rows: Rows, seen: Callable[[], object] = lambda: None
) -> tuple[list[Array], list[Array]]:
    """The states and slopes of one batch at all levels, by DPM-Solver++ of third order in equal steps of log-SNR.

    `seen` is called after each evaluation.
    """
    grid = teacher_grid(model, steps)
    plan = plan_for(dpmpp_multistep.with_options(order=3), grid, model.prediction)
    data = place(model.noise_schedule, model.scaling, 0.0)
    # One stage more than the plan has: the data prediction at the last level.
    end = plan_for(dpmpp_multistep, Grid((grid[-1], data), model.noise_schedule, model.scaling), model.prediction)
    states, slopes = list[Array](), list[Array]()
    with no_gradients(x):
        run = Run(plan)
        for stage in (*plan.stages, end.stages[0]):
            output = model.output(x, stage.scale, stage.point.timestep, rows)
            states.append(x)
            slopes.append(slope(x, output, stage))
            if not run.is_done:
                x = run.step(output, x)
            seen()
    return states, slopes


def follow(
    model: Model, seeds: Sequence[int], rows: Rows, steps: int, progress: bool = False, teachers: Teachers | None = None
) -> Pairs:
    """The pairs of `seeds` with conditions `rows`, by :func:`walk` or by `teachers`, who do the same elsewhere."""
    from tqdm.auto import tqdm

    x = begun(model, seeds)
    sigmas = np.array([point.sigma for point in teacher_grid(model, steps)])
    batches = model.batches(x, rows)
    with tqdm(total=len(sigmas) * len(batches), disable=not progress, desc="teacher", leave=False) as bar:
        if teachers is None:
            walked = [walk(model, steps, *batch, bar.update) for batch in batches]
        else:
            walked = list(teachers.walk(steps, batches, lambda: bar.update(len(sigmas))))
    states, slopes = ([concatenate(parts) for parts in zip(*each, strict=True)] for each in zip(*walked, strict=True))
    return Pairs(x, rows, sigmas, states, slopes, states[-1] - float(sigmas[-1]) * slopes[-1])


def steps_needed(
    model: Model, seeds: Sequence[int], rows: Rows, tolerance: float, begin: int, most: int
) -> tuple[int, float]:
    """The least number of teacher's steps, doubled from `begin`, that a teacher of twice as many agrees with.

    Returns:
        steps: at most `most`.
        apart: root mean square difference from the finer one, as a part of the samples' root mean square.
    """
    steps = begin
    coarse = follow(model, seeds, rows, steps).final
    while True:
        fine = follow(model, seeds, rows, 2 * steps).final
        apart = root_mean_square(fine - coarse) / (root_mean_square(fine) or 1.0)
        if apart <= tolerance or 2 * steps > most or not np.isfinite(apart):
            return steps, apart
        steps, coarse = 2 * steps, fine
