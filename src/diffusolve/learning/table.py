"""The numbers that are learned: levels, told levels and weights of slopes; to plans and from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusolve.noise import Grid, NoiseSchedule, Point, Scaling
from diffusolve.plan import OUTPUT, UNGUIDED, Plan, Update, trace
from diffusolve.prediction import Prediction
from diffusolve.solvers import Evaluate, Keep, Solver

__all__ = ["NotALearnersPlanError", "Table", "evaluations_of", "in_rounds", "place", "plan_of", "table_of", "used"]

Numbers = npt.NDArray[np.float64]

LEARNED = "learned"
"""The name of the solver in plans that are made here."""

CONSISTENT = 1e-6
"""A coefficient this far from 1 is no longer 1."""


class NotALearnersPlanError(ValueError):
    """A plan that is not of the form that is learned: another kind of step, noise, or levels that do not fall."""


@dataclass(frozen=True)
class Table:
    """A solver as numbers: ``x[i+1] = x[i] + (sigma[i+1] - sigma[i]) * sum over j <= i of weights[i, j] * slope[j]``.

    Slopes are ``(x - x0) / sigma`` of samples scaled to alpha = 1, or to alpha + sigma = 1 where sampling starts at
    pure noise. Every linear solver with one evaluation a level is of this form.

    Attributes:
        sigmas: shape (steps + 1,), falling; where the network is asked, and the end.
        shifts: shape (steps,); what is added to log(alpha / sigma) before the network is told of it as its timestep.
        weights: shape (steps, steps), lower triangular.
    """

    sigmas: Numbers
    shifts: Numbers
    weights: Numbers

    @property
    def steps(self) -> int:
        """The number of evaluations."""
        return len(self.shifts)

    @property
    def count(self) -> int:
        """The number of numbers that can be learned: weights, inner levels, told levels."""
        return self.steps * (self.steps + 1) // 2 + self.steps - 1 + self.steps


def evaluations_of(rounds: int, at_once: int) -> int:
    """The evaluations of a table with so many `rounds`: one in the first, `at_once` in each that follows."""
    return 1 + at_once * (rounds - 1)


def used(steps: int, at_once: int) -> npt.NDArray[np.bool_]:
    """The weights of a table of `steps` evaluations that may differ from 0: shape (steps, steps).

    ``weights[i]`` lead to the sample of evaluation i + 1, which waits for no slope of its own round. Rounds as in
    :func:`evaluations_of`.
    """
    round_of = (np.arange(steps + 1) + at_once - 1) // at_once
    round_of[steps] = steps  # the last sample waits for all slopes
    return np.tril(round_of[:-1] < round_of[1:, None])


def in_rounds(table: Table, at_once: int) -> Table:
    """`table` with the weights of slopes that are not waited for added to those of the latest slope that is."""
    allowed = used(table.steps, at_once)
    weights = np.where(allowed, table.weights, 0.0)
    latest = table.steps - 1 - allowed[:, ::-1].argmax(1)
    weights[np.arange(table.steps), latest] += np.where(allowed, 0.0, table.weights).sum(1)
    return replace(table, weights=weights)


def place(schedule: NoiseSchedule, scaling: Scaling, sigma: float, shift: float = 0.0) -> Point:
    """The point where samples scaled as `scaling` has it carry noise of `sigma`, told to the network with a `shift`."""
    alpha, sigma_ = scaling.scales(sigma)
    own = schedule.scaling
    norm = own.norm(alpha, sigma_)
    told = float(own.sigma_from_log_snr(scaling.log_snr(sigma) + shift))
    return Point(float(schedule.timestep(min(told, schedule.sigma_max))), alpha, sigma_, 1.0 / norm)


def plan_of(
    table: Table,
    schedule: NoiseSchedule,
    scaling: Scaling,
    predicts: Prediction,
    extra: Mapping[str, Any] | None = None,
) -> Plan:
    """The plan of `table` for a network trained with `schedule` that `predicts`."""
    sigmas = [float(sigma) for sigma in table.sigmas]
    shifts = [*table.shifts.tolist(), 0.0]
    points = tuple(place(schedule, scaling, *both) for both in zip(sigmas, shifts, strict=True))
    steps = (np.diff(table.sigmas)[:, None] * table.weights).tolist()

    def weighted(grid: Grid, x: Any) -> Any:
        slopes = []
        for i, (s, _) in enumerate(pairwise(grid)):
            x, data = yield Evaluate(x, s)
            slopes.append((yield Keep((x - data) / s.sigma)))
            for weight, slope in zip(steps[i], slopes, strict=False):
                if weight:
                    x = x + weight * slope
        return x

    plan = trace(Solver(weighted, "learned"), Grid(points, schedule, scaling), predicts)
    return replace(plan, solver=LEARNED, extra=extra or {})


def table_of(plan: Plan, schedule: NoiseSchedule, scaling: Scaling) -> Table:
    """The table that `plan` is, for samples scaled as `scaling` has it.

    Raises:
        NotALearnersPlanError: the plan adds noise, takes an unguided output, asks the network twice at one level, or is
            not a solver of first order at least, so that it is not of this form.
    """
    if plan.is_stochastic or plan.reads_unguided:
        raise NotALearnersPlanError(f"{plan.solver} adds noise or takes an unguided output: learn from another plan.")
    points = [stage.point for stage in plan.stages] + [plan.end]
    norms = np.array([scaling.norm(point.alpha, point.sigma) for point in points])
    sigmas = np.array([point.sigma for point in points]) / norms
    if not np.all(np.diff(sigmas) < 0.0) or sigmas[-2] <= 0.0:
        raise NotALearnersPlanError(f"{plan.solver} does not ask the network at ever lower levels: learn from another.")
    samples = _samples(plan) / norms[:, None]
    samples[:, 0] *= norms[0]  # in terms of the first sample as scaled here
    count = plan.nfe
    slopes = (samples[:count] - np.eye(count + 1)[1:]) / sigmas[:count, None]
    basis = np.vstack([np.eye(count + 1)[:1], slopes])
    sums = np.linalg.solve(basis.T, samples.T).T
    if np.abs(sums[:, 0] - 1.0).max() > CONSISTENT:
        raise NotALearnersPlanError(f"{plan.solver} is not of first order: learn from another plan.")
    weights = np.tril(np.diff(sums[:, 1:], axis=0) / np.diff(sigmas)[:, None])
    return Table(sigmas, _shifts(plan, schedule, scaling, sigmas), weights)


def _shifts(plan: Plan, schedule: NoiseSchedule, scaling: Scaling, sigmas: Numbers) -> Numbers:
    """The log-SNR that the network is told of less the sample's, for each evaluation; 0 to rounding is 0."""
    shifts = []
    for stage, sigma in zip(plan.stages, sigmas[:-1], strict=True):
        own_timestep = place(schedule, scaling, float(sigma)).timestep
        told, own = (float(schedule.log_snr(timestep)) for timestep in (stage.point.timestep, own_timestep))
        differs = abs(stage.point.timestep - own_timestep) > 1e-9 * schedule.num_train_timesteps
        shifts.append(told - own if differs and np.isfinite(told) and np.isfinite(own) else 0.0)
    return np.array(shifts)


def _samples(plan: Plan) -> Numbers:
    """The sample at each stage and the result, in terms of the first sample and the data predictions.

    Shape (nfe + 1, nfe + 1).
    """
    unit = np.eye(plan.nfe + 1)
    registers: dict[str, Numbers] = {plan.initial: unit[0]}

    def written(update: Update) -> None:
        for write in update.writes:
            registers[write.register] = sum((c * registers[name] for name, c in write.terms), np.zeros(plan.nfe + 1))

    written(plan.opening)
    samples = []
    for i, stage in enumerate(plan.stages):
        sample = registers[stage.sample]
        samples.append(sample)
        registers[stage.data] = unit[i + 1]
        registers[OUTPUT] = registers[UNGUIDED] = (unit[i + 1] - stage.a * sample) / stage.b
        written(stage.update)
    samples.append(registers[plan.result])
    return np.array(samples)
